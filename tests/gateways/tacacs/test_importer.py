"""A classic tac_plus.conf becomes ours: the same decisions, and nothing lost silently."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.secret import Secret
from sojourn.gateways.tacacs.config import TacacsSettings
from sojourn.gateways.tacacs.importer import Imported, import_tac_plus, toml
from sojourn.gateways.tacacs.importer.patterns import NotConvertible, line_pattern
from sojourn.gateways.tacacs.importer.tokens import tokenize
from sojourn.gateways.tacacs.pairs import command_line
from sojourn.gateways.tacacs.passwords import new_seal_key, seal, unseal
from sojourn.gateways.tacacs.policy import Policy, Query, is_regex

SEAL_KEY = new_seal_key()

HASHED = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b8dWRWJTmaQVrz1T+1T3b2m0o8"

SAMPLE = r"""
# the whole classic grammar
key = "a-key-for-everything-else-here"
accounting file = /var/log/acct
accounting syslog
logging = local6
default authentication = file /etc/passwd

acl = lan {
    permit = ^10\.1\.
}

host = 10.1.0.1 {
    key = "the-key-of-router-ten-1-0-1"
    prompt = "Hello: "
}
host = 192.0.2.7 {
    type = cisco
    key = the-key-of-router-192-0-2-7
    enable = cleartext hostenable
}
host = router.example.net {
    key = the-key-of-a-named-router
}

group = staff {
    expires = "Dec 31 2030"
    cmd = ping { permit .* }
    service = exec {
        priv-lvl = 1
        optional idletime = 10
    }
}
group = netops {
    default service = permit
    member = staff
    cmd = reload {
        deny .*
    }
    cmd = configure {
        permit "^terminal <cr>$"
        deny .*
    }
    cmd = debug { }
    service = exec {
        default attribute = permit
        priv-lvl = 15
    }
    service = ppp protocol = ip {
        addr = 10.9.9.9
    }
}
group = empty { default service = permit
}
user = ana {
    member = netops
    name = "Ana"
    login = cleartext "secret \"pass"
    chap = cleartext chapsecret
    cmd = show { permit .* }
}
user = bob {
    member = staff
    login = des 4gW.9rtQm5Z2o
    pap = cleartext papsecret
    acl = lan
    cmd = show {
        deny "running-config"
        permit "^version .*"
        permit "interfaces? (Gi|Te)[0-9/]+"
    }
    maxsess = 2
}
user = eve {
    login = PAM
    default service = deny
    service = connection { zone = a }
}
user = carl {
    login = nopassword
    cmd = telnet {
        permit 131\.108\.13\.[0-9]+
        deny \d
        permit .*
    }
    before authorization "/bin/check $user"
}
user = dora {
    login = file /etc/tac_passwd
    enable = cleartext doraenable
    service = exec { autocmd = "show users" }
}
user = $enab15$ {
    login = cleartext enablepass
}
"""


def imported(text: str = SAMPLE, *, with_seal: bool = True) -> Imported:
    """Import with a hash that costs nothing and a seal that is real."""
    return import_tac_plus(
        text,
        "tac_plus.conf",
        hash_password=lambda _: HASHED,
        seal=(lambda secret, user: seal(secret, SEAL_KEY, user)) if with_seal else None,
        seal_key_reference=SEAL_KEY.reveal(),
    )


def loaded(result: Imported) -> TacacsSettings:
    """Load what was written, as the daemon does."""

    def hook(kind: type, value: object) -> Any:
        assert kind is Secret
        return Secret(str(value))

    return msgspec.convert(tomllib.loads(result.toml)["tacacs"], TacacsSettings, dec_hook=hook)


def decide(
    settings: TacacsSettings, user: str, line: str, device: str = "10.1.0.1"
) -> tuple[bool, tuple[str, ...]]:
    """Ask the policy; ``line`` is a command, or the pairs of a session that begin with ``service=``."""
    groups = next((entry.groups for entry in settings.users if entry.name == user), ())
    where = next(entry for entry in settings.devices if entry.name == device)
    args: tuple[str, ...] = tuple(line.split())
    if not line.startswith("service="):
        args = ("service=shell", f"cmd={args[0]}", *(f"cmd-arg={word}" for word in args[1:]), "cmd-arg=<cr>")
    service = args[0].partition("=")[2]
    query = Query(user, groups, device, where.groups, "tty1", "192.0.2.200", service, args)
    decision = Policy(settings).decide(query)
    return decision.permit, decision.args


def test_the_result_loads_without_problems() -> None:
    """What the importer writes is a table that the daemon starts with."""
    settings = loaded(imported())
    assert list(settings.problems()) == []
    assert [device.name for device in settings.devices] == ["10.1.0.1", "192.0.2.7", "any"]
    assert settings.devices[2].networks == ("0.0.0.0/0", "::/0")
    assert settings.devices[1].secrets[0].value.reveal() == "the-key-of-router-192-0-2-7"
    assert [user.name for user in settings.users] == ["ana", "bob", "eve", "carl", "dora"]
    assert settings.accounting.files[0].path == "/var/log/acct.jsonl"
    assert settings.accounting.syslog[0].facility == 22


SHELL = "service=shell cmd="


@pytest.mark.parametrize(
    ("user", "line", "permit", "args"),
    [
        ("ana", "show running-config", True, ()),
        ("ana", "reload", False, ()),
        ("ana", "reload in 5", False, ()),
        ("ana", "configure terminal", True, ()),
        ("ana", "configure network", False, ()),
        ("ana", "configure", False, ()),
        ("ana", "debug all", False, ()),
        ("ana", "ping 10.0.0.1", True, ()),
        ("ana", "write memory", True, ()),
        ("ana", SHELL, True, ("priv-lvl=15",)),
        ("ana", "service=ppp protocol=ip", True, ("addr=10.9.9.9",)),
        ("ana", "service=ppp protocol=lcp", True, ()),
        ("ana", "service=ppp protocol=ipx", True, ()),
        ("bob", "show version", True, ()),
        ("bob", "show version brief", True, ()),
        ("bob", "show versions", False, ()),
        ("bob", "show", False, ()),
        ("bob", "show running-config interfaces Gi0", False, ()),
        ("bob", "show interface Gi0/1", True, ()),
        ("bob", "show interface Lo0", False, ()),
        ("bob", "ping", True, ()),
        ("bob", "write memory", False, ()),
        ("bob", SHELL, True, ("priv-lvl=1", "idletime*10")),
        ("bob", "service=ppp protocol=ip", False, ()),
        ("eve", "show version", False, ()),
        ("eve", SHELL, False, ()),
        ("eve", "service=connection", True, ("zone=a",)),
        ("carl", "telnet 131.108.13.44", True, ()),
        ("carl", "telnet 10.0.0.1", False, ()),
        ("carl", SHELL, True, ()),
        ("carl", "ping 10.0.0.1", False, ()),
        ("dora", SHELL, True, ("autocmd=show users",)),
        ("dora", "show version", False, ()),
        ("stranger", "show version", False, ()),
        ("stranger", SHELL, False, ()),
    ],
)
def test_decisions_stay_the_same(user: str, line: str, permit: bool, args: tuple[str, ...]) -> None:
    """What the F4 daemon answers to these requests, our policy answers."""
    assert decide(loaded(imported()), user, line) == (permit, args)


def test_an_access_list_becomes_a_group_of_denied_devices() -> None:
    """The user of the list works on the devices it permits, the others everywhere."""
    settings = loaded(imported())
    assert decide(settings, "bob", "ping")[0]
    for device in ("192.0.2.7", "any"):
        assert not decide(settings, "bob", "ping", device)[0]
        assert not decide(settings, "bob", SHELL, device)[0]
        assert decide(settings, "ana", "ping", device)[0]


def test_passwords_leave_as_hashes_and_chap_secrets_sealed() -> None:
    """No clear password of a user is in the result, in whatever form it is looked at."""
    result = imported()
    ana, bob, eve, _, dora = loaded(result).users
    assert ana.password is not None
    assert ana.password.reveal() == HASHED
    assert bob.password is not None
    assert bob.password.reveal() == "4gW.9rtQm5Z2o"
    assert ana.secret is not None
    assert unseal(ana.secret.reveal(), SEAL_KEY, "ana") == b"chapsecret"
    assert eve.password is None
    assert ana.enable is not None
    assert dora.enable is not None
    assert str(ana.expires) == "2030-12-31"
    for secret in ("secret", "papsecret", "chapsecret", "doraenable", "hostenable", "enablepass"):
        assert not re.search(rf"\b{secret}\b(?! =)", result.toml)
        assert secret not in repr(result)
        assert all(secret not in item.text for item in result.unmapped)


def test_a_chap_secret_without_a_seal_key_is_listed() -> None:
    """A clear secret is not written; the next step is named."""
    result = imported(with_seal=False)
    assert loaded(result).users[0].secret is None
    (item,) = (item for item in result.unmapped if "chap" in item.text)
    assert item.text == "user ana: chap or ms-chap = cleartext ***"
    assert "seal_key" in item.why


def test_everything_that_is_not_mapped_is_listed_with_its_line() -> None:
    """Each of these has no setting of ours, or means something slightly different."""
    result = imported()
    lines = SAMPLE.split("\n")
    listed = {lines[item.line - 1].strip().split("  ")[0] for item in result.unmapped}
    for text in (
        "accounting file = /var/log/acct", "default authentication = file /etc/passwd",
        'prompt = "Hello: "', "type = cisco", "enable = cleartext hostenable",
        "host = router.example.net {", "optional idletime = 10",
        "group = empty { default service = permit", "maxsess = 2", "pap = cleartext papsecret",
        "login = PAM", "login = nopassword", r"deny \d", 'before authorization "/bin/check $user"',
        "login = file /etc/tac_passwd", r"permit = ^10\.1\.",
    ):  # fmt: skip
        assert text in listed
    assert [item.line for item in result.unmapped] == sorted(item.line for item in result.unmapped)
    assert all(item.why for item in result.unmapped)
    assert result.toml.count("# line ") == len(result.unmapped)


def test_strangers_are_permitted_only_where_the_old_file_did() -> None:
    """``default authorization = permit`` is for users who are not in the file."""
    settings = loaded(
        imported("key = k23456789012345678\ndefault authorization = permit\nuser = a { login = des x }")
    )
    assert list(settings.problems()) == []
    assert decide(settings, "stranger", "reload", "any")[0]
    assert decide(settings, "stranger", SHELL, "any")[0]
    assert not decide(settings, "a", "reload", "any")[0]
    assert not decide(settings, "a", SHELL, "any")[0]


def test_the_default_user_stands_for_strangers() -> None:
    """``user = DEFAULT`` with its groups; users of the file do not fall through to it."""
    settings = loaded(
        imported(
            "key = k23456789012345678\ngroup = g { default service = permit\n cmd = show { permit .* } }\n"
            "user = a { cmd = ping { permit .* } }\nuser = DEFAULT { member = g\n cmd = reload { deny .* } }"
        )
    )
    assert list(settings.problems()) == []
    for user, line, permit in (
        ("x", "reload", False), ("x", "show clock", True), ("x", "write", True), ("x", SHELL, True),
        ("a", "ping", True), ("a", "show clock", False), ("a", "write", False), ("a", SHELL, True),
    ):  # fmt: skip
        assert decide(settings, user, line, "any")[0] is permit


def test_short_keys_lower_the_limit_and_are_listed() -> None:
    """The configuration works at once, and says what to change."""
    result = imported("key = short\n")
    settings = loaded(result)
    assert settings.min_secret_length_count == 5
    assert list(settings.problems()) == []
    assert "32 characters" in result.unmapped[0].why
    assert "short" not in result.unmapped[0].text


def test_the_user_comes_before_the_group_and_the_group_before_its_group() -> None:
    """The first place that names a command decides about it."""
    text = """
key = k23456789012345678
group = top { cmd = a { permit .* }
  cmd = b { permit .* }
  cmd = c { permit .* } }
group = mid { member = top
  cmd = a { permit .* }
  cmd = b { deny .* } }
user = u { member = mid
  cmd = a { deny .* } }
"""
    settings = loaded(imported(text))
    assert [decide(settings, "u", line, "any")[0] for line in "abc"] == [False, False, True]


ARGUMENTS = (
    "", "version", "version brief", "interfaces", "interface Gi0/1", "interfaces Te1", "run",
    "running-config", "ip bgp", "xversion", "131.108.13.7", "131x108.13.7", "a]b", "word-1",
    "version <x>",
)  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    [
        ".*", "^.*$", "^version", "^version .*", "version .*", "^version <cr>$", "version <cr>",
        "^<cr>$", "<cr>", "^run", "run|ip", "^run|^ip", "^(run|ip)", "(^run|bgp)",
        "interfaces? (Gi|Te)[0-9/]+", "[^a-z <>]", "[]]", "[0-9]+[.]108", r"131\.108", "^v.*n .*",
        "^ip bgp <cr>", ".+", "^[[:alpha:]]+ <cr>", "x{0,1}version", "^a\\]b", "^.*bgp .*$",
    ],
)  # fmt: skip
def test_a_converted_pattern_matches_what_the_old_one_did(pattern: str) -> None:
    """The old daemon searches in the arguments with their closing <cr>; ours in the line without."""
    entry = line_pattern("show", pattern)
    python = pattern.replace("[[:alpha:]]", "[A-Za-z]").replace("[]]", r"[\]]")
    for arguments in ARGUMENTS:
        line = command_line(("cmd=show", *(f"cmd-arg={word}" for word in arguments.split())))
        assert line is not None
        old = re.search(python, f"{arguments} <cr>".strip()) is not None
        is_found = re.search(entry[1:-1], line) is not None
        new = is_found if is_regex(entry) else f"{line} ".startswith(f"{entry} ")
        assert new is old, (entry, line)


@pytest.mark.parametrize("pattern", ["(", "a**", "(?i)x", r"\d", "[[:nonsense:]]", "[a", "a\\", "(a+)+", "*"])
def test_a_pattern_that_cannot_be_said_is_refused(pattern: str) -> None:
    """Better no entry than one that means something else."""
    with pytest.raises(NotConvertible):
        line_pattern("show", pattern)


def test_an_unclear_deny_denies_and_an_unclear_permit_is_left_out() -> None:
    """What cannot be converted never widens what is permitted."""
    text = "key = k23456789012345678\nuser = u {{ login = des x\n cmd = show {{ {} (?x)\n permit .* }} }}"
    assert not decide(loaded(imported(text.format("deny"))), "u", "show run", "any")[0]
    assert decide(loaded(imported(text.format("permit"))), "u", "show run", "any")[0]


@pytest.mark.parametrize(("pattern", "words"), [("[^a-z ]", "every command"), ("^version$", "nothing there")])
def test_a_pattern_that_met_the_closing_cr_is_listed(pattern: str, words: str) -> None:
    """Our line has no <cr>; where that changes what a pattern takes, the operator is told."""
    (item,) = imported(
        f'user = u {{ login = des 4gW.9rtQm5Z2o\n cmd = show {{ permit "{pattern}" }} }}'
    ).unmapped
    assert item.line == 2
    assert words in item.why


KEY = "key = k23456789012345678\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("user = u { member = g }", "that group does not exist"),
        ("group = g { member = h }\ngroup = h { member = g }\nuser = u { member = g }", "go in a circle"),
        ("user = u { member = g\n member = h }\ngroup = g { }", "one membership counts"),
        ("user = u { login = des x }", "no known format"),
        ('user = u { expires = "tomorrow" }', "MMM DD YYYY"),
        ("user = u { login = skey }", "not supported"),
        ("user = u { chap = cleartext a\n ms-chap = cleartext b }", "one secret for CHAP and MS-CHAP"),
        ("user = u { chap = des a }", "CHAP needs the secret itself"),
        ("user = u { arap = cleartext a }", "ARAP"),
        ("user = u { acl = ghost }", "no such access list"),
        ("acl = a { permit = ( }\nhost = 10.0.0.1 { }\nuser = u { acl = a }", "denied from here on"),
        (
            "user = $enab1$ { login = cleartext a }\nuser = $enab15$ { login = cleartext b }",
            "that of level 15",
        ),
        ("user = u { }\nuser = u { }", "the first counts"),
        ("host = 10.0.0.1 { }\nhost = 10.0.0.1 { }", "the first counts"),
        ("user = u { cmd = a { permit x }\n cmd = a { permit y } }", "the first counts"),
        ("user = u { service = shell { } }", "it wants 'service = exec'"),
        ('user = u { service = exec { acl = "\u00e9" } }', "printable ASCII"),
        ("user = u { cmd = a { maybe x } }", "unknown in a cmd block"),
        ("user = u { service = exec { a b } }", "wanted '='"),
        ("user = u { cmd = a { permit } }", "wanted a regular expression"),
        ("user = u {", "the file ends inside a block"),
        ("acl = a { allow = x }", "unknown in an access list"),
        ("host = 10.0.0.1 { address = x }", "unknown in a host block"),
        ("user = u { default service = maybe }", "wanted permit or deny"),
        ("id = spawnd {\n listen = { port = 49 }\n}", "unknown to the classic tac_plus grammar"),
        ("group = a+b { }\nuser = u { member = a+b }", "the name is a_b now"),
        ("logging = local1", "standard error"),
        ("}", "unknown to the classic tac_plus grammar"),
    ],
)
def test_what_is_odd_is_listed_and_the_rest_still_loads(text: str, why: str) -> None:
    """One broken statement never takes its neighbours with it."""
    result = imported(KEY + text + "\nuser = last { login = des 4gW.9rtQm5Z2o }")
    assert any(why in item.why for item in result.unmapped)
    settings = loaded(result)
    assert list(settings.problems()) == []
    if "inside a block" not in why:
        assert settings.users[-1].name == "last"


def test_a_user_whose_last_day_cannot_be_read_is_disabled() -> None:
    """An account that may have ended must not come back by a slip of the pen."""
    (user,) = loaded(imported(KEY + 'user = u { login = des 4gW.9rtQm5Z2o\n expires = "soon" }')).users
    assert user.disabled


def test_hosts_without_any_key_are_listed() -> None:
    """RFC 8907 section 10.5.1: a device has a key."""
    result = imported("host = 10.0.0.1 { }")
    assert loaded(result).devices == ()
    assert "no key" in result.unmapped[0].why


def test_a_lower_enable_level_stays_the_limit() -> None:
    """``$enab7$`` is the ENABLE password up to level 7, for every user."""
    (user,) = loaded(imported(KEY + "user = $enab7$ { login = cleartext a }\nuser = u { }")).users
    assert user.enable is not None
    assert user.enable_max_priv_lvl == 7


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("key hunter2", "hunter2"),
        ("host = a { key hunter2 }", "hunter2"),
        ("user = a { login = hunter2 }", "hunter2"),
        ("user = a { password = hunter2 }", "hunter2"),
        ("user = a { login cleartext hunter2 }", "hunter2"),
        ("cleartext hunter2", "hunter2"),
        ("user = a { login = des hunter2 }", "hunter2"),
    ],
)
def test_a_secret_in_a_broken_line_is_not_shown(text: str, hidden: str) -> None:
    """The list of what was not understood may be pasted into a ticket."""
    result = imported(text)
    assert result.unmapped
    assert hidden not in result.toml


@given(st.text(st.sampled_from('usergop=key{}" \n#\\$abcd*(permit'), max_size=80) | st.text(max_size=40))
def test_any_text_gives_a_result(text: str) -> None:
    """Garbage is listed, never an exception; the result is TOML that loads."""
    loaded(imported(text))


WORDS = st.sampled_from(
    [
        "user",
        "group",
        "host",
        "=",
        "{",
        "}",
        "a",
        "b",
        "10.0.0.1",
        "key",
        "member",
        "login",
        "cleartext",
        "des",
        "cmd",
        "service",
        "exec",
        "ppp",
        "protocol",
        "permit",
        "deny",
        ".*",
        "default",
        "authorization",
        "attribute",
        "acl",
        "\n",
        "$enab15$",
        "DEFAULT",
        "expires",
        "chap",
        "optional",
        "accounting",
        "file",
        "syslog",
    ]
)


@given(st.lists(WORDS, max_size=60))
def test_any_words_of_the_grammar_give_a_result(words: list[str]) -> None:
    """Also in an order that makes no sense."""
    loaded(imported(" ".join(words)))


def test_tokens_have_the_lines_they_begin_on() -> None:
    """Strings may hold line ends; words end where the old daemon ends them."""
    tokens = [(token.text, token.line) for token in tokenize('a=b # x\n"q\nr" .*}\n\n}')]
    assert tokens == [("a", 1), ("=", 1), ("b", 1), ("q\nr", 2), (".*}", 3), ("}", 5), ("", 5)]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_survives_toml(text: str) -> None:
    """TOML 1.0.0, "String": what is written is read back as it was."""
    assert tomllib.loads(f"x = {toml.text(text)}") == {"x": text}
