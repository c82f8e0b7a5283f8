"""Everything that is wrong with a table is found at once, with its place."""

from __future__ import annotations

import base64

import pytest

from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings, TlsSettings
from sojourn.gateways.tacacs.config import (
    Device,
    Directory,
    Rule,
    SharedSecret,
    TacacsSettings,
    TimeWindow,
    User,
)
from sojourn.gateways.tacacs.passwords import new_seal_key, seal
from sojourn.gateways.tacacs.patterns import can_explode

KEY = SharedSecret(value=Secret("k" * 32))
OTHER_KEY = SharedSecret(value=Secret("q" * 32))
NETS = Device(name="r1", networks=("10.0.0.0/8",), groups=("core",), secrets=(KEY,))
ANA = User(name="ana", groups=("netops",))


def places(**settings: object) -> list[str]:
    """Return the key paths of all problems."""
    return [path for path, _, _ in TacacsSettings(**settings).problems()]  # type: ignore[arg-type]


def test_a_sound_table_has_no_problems() -> None:
    """Nothing is found where nothing is wrong."""
    settings = TacacsSettings(
        devices=(NETS, Device(name="r2", certificate_names=("*.example.net", "192.0.2.1"))),
        users=(ANA, User(name="bob", directory="ad")),
        directories=(Directory(name="ad", urls=("ldap://x",), bind_dn="u={user}", group_map={"cn": "ops"}),),
        rules=(
            Rule(
                name="a",
                user_groups=("netops", "ops"),
                device_groups=("core",),
                commands=("/^show( [a-z]+)*$/",),
            ),
            Rule(name="b", users=("stranger",), add=("priv-lvl=15", "a*"), source_networks=("10.0.0.0/8",)),
            Rule(name="c", when=TimeWindow(start="22:00", end="06:00", timezone="Europe/Berlin")),
            Rule(name="d", action="deny"),
        ),
        seal_key=Secret(base64.b64encode(bytes(32)).decode()),
    )
    assert list(settings.problems()) == []


def test_repeated_names_are_found() -> None:
    """Devices, users, directories and rules are told apart by name."""
    directory = Directory(name="ad", urls=("ldap://x",), bind_dn="u={user}")
    second = Device(name="r1", networks=("11.0.0.0/8",), secrets=(OTHER_KEY,))
    rule = Rule(name="r", users=("ana",))
    assert places(
        devices=(NETS, second), users=(ANA, ANA), directories=(directory, directory), rules=(rule, rule)
    ) == ["devices[1].name", "users[1].name", "directories[1].name", "rules[1].name"]


def test_networks_and_certificate_names_are_checked() -> None:
    """Invalid ones, and ones that two devices have."""
    devices = (
        NETS,
        Device(name="b", networks=("10.0.0.1/8", "nonsense", "::ffff:10.0.0.0/104"), secrets=(OTHER_KEY,)),
        Device(name="c", certificate_names=("a.example", "b*.example", "A.example.")),
    )
    assert places(devices=devices) == [
        "devices[1].networks[0]", "devices[1].networks[1]", "devices[1].networks[2]",
        "devices[2].certificate_names[1]", "devices[2].certificate_names[2]",
    ]  # fmt: skip
    found = {path: (what, wanted) for path, what, wanted in TacacsSettings(devices=devices).problems()}
    assert "10.0.0.0/8" in found["devices[1].networks[0]"][1]
    assert "r1" in found["devices[1].networks[2]"][0]


def test_devices_need_a_way_to_be_known_and_good_keys() -> None:
    """RFC 8907 section 10.5.1: a secret is always set, and not a short one; it is never shown."""
    short = SharedSecret(value=Secret("tooshort"))
    settings = TacacsSettings(
        devices=(
            Device(name="a"),
            Device(name="b", networks=("10.0.0.1",)),
            Device(name="c", networks=("10.0.0.2",), secrets=(short, KEY, KEY)),
        )
    )
    found = list(settings.problems())
    assert [path for path, _, _ in found] == [
        "devices[0].networks", "devices[1].secrets",
        "devices[2].secrets[0].value", "devices[2].secrets[2].value",
    ]  # fmt: skip
    assert "8 characters" in found[2][1]
    assert "tooshort" not in repr(found)


def test_a_tls_listener_wants_certificates_and_nothing_older_than_tls_1_3() -> None:
    """RFC 9887: TLS 1.3, certificates on both sides; without them every device would be refused."""
    files = {"certificate_file": "server.pem", "private_key_file": "server.key"}
    listeners = (
        ListenerSettings(),
        ListenerSettings(tls=TlsSettings(**files, client_ca_file="ca.pem")),
        ListenerSettings(tls=TlsSettings(**files, min_version="1.2")),
    )
    assert places(listeners=listeners) == ["listeners[2].tls.min_version", "listeners[2].tls.client_ca_file"]


def test_users_are_checked_for_directories_hashes_and_seals() -> None:
    """A hash is judged by its form; what is wrong is said without showing it."""
    users = (
        User(name="a", directory="ad"),
        User(name="b", password=Secret("in the clear"), enable=Secret("also clear")),
        User(name="c", secret=Secret("sealed:v1:xyz")),
        User(name="d", totp=Secret("not base 32!")),
    )
    found = list(TacacsSettings(users=users).problems())
    assert [path for path, _, _ in found] == [
        "users[2].secret", "users[0].directory", "users[1].password", "users[1].enable", "users[3].totp",
    ]  # fmt: skip
    assert "clear" not in repr(found)


def test_a_seal_key_has_32_bytes() -> None:
    """AES-256 takes no other key."""
    assert places(seal_key=Secret("c2hvcnQ=")) == ["seal_key"]


def test_rules_refer_to_what_exists() -> None:
    """A group that nobody has is a slip; a user may be a stranger only if a directory lets strangers in."""
    rules = (Rule(name="a", user_groups=("netop",), device_groups=("core", "edge"), users=("ana", "zoe")),)
    assert places(devices=(NETS,), users=(ANA,), rules=rules) == [
        "rules[0].device_groups[1]", "rules[0].user_groups[0]", "rules[0].users[1]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        (Rule(name="r", commands=("show", "/(/")), "rules[0].commands[1]"),
        (Rule(name="r", commands=("//",)), "rules[0].commands[0]"),
        (Rule(name="r", commands=(" ",)), "rules[0].commands[0]"),
        (Rule(name="r", commands=("/(a+)+$/",)), "rules[0].commands[0]"),
        (Rule(name="r", source_networks=("10.0.0.1/8",)), "rules[0].source_networks[0]"),
        (Rule(name="r", add=("priv-lvl",)), "rules[0].add[0]"),
        (Rule(name="r", add=("=15",)), "rules[0].add[0]"),
        (Rule(name="r", replace=("a=" + "x" * 254,)), "rules[0].replace[0]"),
        (Rule(name="r", add=("a=é",)), "rules[0].add[0]"),
        (Rule(name="r", add=("a=1",), replace=("a=1",)), "rules[0].replace"),
        (Rule(name="r", add=("a=1",), commands=("show",)), "rules[0].add"),
        (Rule(name="r", replace=("a=1",), action="deny"), "rules[0].replace"),
        (Rule(name="r", when=TimeWindow(timezone="Mars/Base")), "rules[0].when.timezone"),
        (Rule(name="r", when=TimeWindow(timezone="../etc/passwd")), "rules[0].when.timezone"),
        (Rule(name="r", when=TimeWindow(start="08:00", end="08:00")), "rules[0].when.end"),
        (Rule(name="r", when=TimeWindow(days=())), "rules[0].when.days"),
    ],
)
def test_a_rule_that_cannot_work_is_found(rule: Rule, place: str) -> None:
    """One problem, at the value that has to change."""
    assert places(rules=(rule,)) == [place]


def test_rules_behind_a_catch_all_are_found() -> None:
    """The first match decides, so that nothing reaches them."""
    rules = (
        Rule(name="a", commands=("x",)),
        Rule(name="all"),
        Rule(name="b", users=("ana",)),
        Rule(name="c"),
    )
    assert places(users=(ANA,), rules=rules) == ["rules[2]", "rules[3]"]


@pytest.mark.parametrize(
    ("pattern", "explodes"),
    [
        (".*", False), ("^show .*$", False), ("( [a-z]+)*", False), (r"(\S+ )*x", False), ("(abc)+", False),
        ("(a|b)*", False), (r"^interface (Gi|Te)[0-9/.]+$", False), ("(a{1,3})*", False), ("(.+)?", False),
        ("(a+)+", True), ("(a*)*$", True), ("(.*,)*x", True), (r"(\w+\s?)*$", True), ("((a+)b?)*", True),
        ("(?:x*|y)+", True), ("([^,]+)*", True), (r"(\d+|\w+)*", True), ("(?=(a+)+)b", True),
    ],
)  # fmt: skip
def test_exponential_expressions_are_told_from_others(pattern: str, explodes: bool) -> None:
    """A repetition in a repetition is harmless only if something in between keeps them apart."""
    assert can_explode(pattern) is explodes


def test_a_secret_that_was_sealed_for_somebody_else_is_found() -> None:
    """Copying a sealed secret from one user to another does not work, and is told before the first login."""
    key = new_seal_key()
    mine, other = (User(name=name, secret=Secret(seal("pw", key, "ana"))) for name in ("ana", "ben"))
    assert places(users=(mine, other), seal_key=key) == ["users[1].secret"]
    assert places(users=(mine,), seal_key=new_seal_key()) == ["users[0].secret"]


def test_a_directory_that_cannot_work_is_found() -> None:
    """Every directory is checked, each problem with its place."""
    good = Directory(name="good", urls=("ldap://x",), bind_dn="u={user}")
    bad = Directory(name="bad", urls=("http://x",), bind_dn="cn=search")
    assert places(directories=(good, bad)) == [
        "directories[1].urls",
        "directories[1].search_base",
        "directories[1].bind_password",
    ]
