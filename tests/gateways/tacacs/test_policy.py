"""The policy: first match decides, and every decision says why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.gateways.tacacs import policy as policy_module
from sojourn.gateways.tacacs.config import Rule, TacacsSettings, TimeWindow, User
from sojourn.gateways.tacacs.pairs import (
    FAIL,
    PASS_ADD,
    PASS_REPL,
    command_line,
    merge_pairs,
    service_of,
    split_pair,
)
from sojourn.gateways.tacacs.policy import NO_RULE, Policy, Query
from sojourn.gateways.tacacs.windows import Window

BERLIN = ZoneInfo("Europe/Berlin")


def ask(line: str | None = None, **changes: Any) -> Query:
    """Make the query of ana on r1: a session authorization, or a command as IOS sends it."""
    args: tuple[str, ...] = ("service=shell", "cmd=")
    if line is not None:
        command, *words = line.split()
        args = ("service=shell", f"cmd={command}", *(f"cmd-arg={word}" for word in words), "cmd-arg=<cr>")
    values: dict[str, Any] = {
        "user": "ana", "user_groups": ("netops",), "device": "r1", "device_groups": ("core",), "port": "tty1",
        "rem_addr": "192.0.2.9", "service": "shell", "args": args,
    }  # fmt: skip
    return Query(**(values | changes))


def policy(*rules: Rule, now: Callable[[], dt.datetime] | None = None) -> Policy:
    settings = TacacsSettings(rules=rules)
    return Policy(settings) if now is None else Policy(settings, now)


def test_no_rule_means_denied() -> None:
    """The default is deny, with the rule named (none)."""
    decision = policy().decide(ask("show version"))
    assert (decision.permit, decision.status, decision.rule) == (False, FAIL, NO_RULE)
    assert decision.message == "Not authorized"
    assert decision.valid_until is None


def test_the_first_matching_rule_decides() -> None:
    """Order counts, and later rules are not looked at."""
    made = policy(Rule(name="no", commands=("reload",), action="deny", message="ask first"), Rule(name="yes"))
    denied = made.decide(ask("reload in 5"))
    assert (denied.rule, denied.status, denied.message, denied.args) == ("no", FAIL, "ask first", ())
    allowed = made.decide(ask("show clock"))
    assert (allowed.rule, allowed.status, allowed.args) == ("yes", PASS_ADD, ())


@pytest.mark.parametrize(
    ("entry", "line", "matches"),
    [
        ("show", "show", True),
        ("show", "show version", True),
        ("show", "showing", False),
        ("show interfaces", "show interfaces Gi0/1", True),
        ("show interfaces", "show interfaces", True),
        ("show interfaces", "show interface", False),
        ("show interfaces", "show", False),
        ("show  interfaces", "show interfaces", True),
        ("Show", "show", False),
        ("/run/", "show running-config", True),
        ("/^show (version|clock)$/", "show version", True),
        ("/^show (version|clock)$/", "show version brief", False),
        ("/^show$/", "show", True),
        ("/.*/", "anything at all", True),
        ("/", "/", True),
    ],
)
def test_commands_match_by_words_or_by_a_search_of_the_line(entry: str, line: str, matches: bool) -> None:
    """Words are whole and exact; /.../ is searched in the line without its <cr>."""
    assert policy(Rule(name="r", commands=(entry,))).decide(ask(line)).permit is matches


def test_a_rule_for_commands_does_not_match_a_session() -> None:
    """RFC 8907 section 6.1: an empty cmd is a session authorization."""
    made = policy(Rule(name="r", commands=("/.*/",)))
    assert made.decide(ask()).rule == NO_RULE
    assert made.decide(ask(args=("service=shell",))).rule == NO_RULE
    assert made.decide(ask(args=("service=shell", "cmd*"))).rule == NO_RULE


def test_more_blanks_do_not_pass_a_denial() -> None:
    """The line has one blank between words, however the device sends it."""
    made = policy(Rule(name="no", commands=("configure terminal",), action="deny"), Rule(name="yes"))
    assert not made.decide(ask(args=("service=shell", "cmd=configure  terminal"))).permit
    assert not made.decide(ask(args=("service=shell", "cmd= configure", "cmd-arg= terminal "))).permit


@pytest.mark.parametrize(
    ("rule", "changes", "words"),
    [
        (Rule(name="r", users=("bob",)), {}, "users bob: not ana"),
        (Rule(name="r", user_groups=("noc", "ops")), {}, "user group noc or ops: ana is not in it"),
        (Rule(name="r", device_groups=("edge",)), {}, "device group edge: r1 is not in it"),
        (Rule(name="r", services=("ppp",)), {}, "service ppp: the request says shell"),
        (Rule(name="r", services=("ppp",)), {"service": ""}, "service ppp: the request says nothing"),
        (Rule(name="r", protocols=("ip",)), {}, "protocol ip: the request says nothing"),
        (
            Rule(name="r", source_networks=("10.0.0.0/8",)),
            {},
            "source network 10.0.0.0/8: rem_addr is 192.0.2.9",
        ),
        (
            Rule(name="r", source_networks=("0.0.0.0/0",)),
            {"rem_addr": "async"},
            "source network 0.0.0.0/0: rem_addr is async",
        ),
        (
            Rule(name="r", commands=("show",)),
            {},
            "commands: the request is a session authorization, not a command",
        ),
    ],
)
def test_explain_names_the_first_condition_that_does_not_hold(
    rule: Rule, changes: dict[str, Any], words: str
) -> None:
    """Every rule up to the deciding one has a reason in words."""
    first, last = policy(rule).explain(ask(**changes))
    assert (first.rule, first.matched, first.words) == ("r", False, words)
    assert (last.rule, last.matched, last.words) == (NO_RULE, False, "deny, FAIL: no rule matches")
    assert last.decision is not None


def test_explain_ends_with_the_deciding_rule_and_the_decision() -> None:
    """Rules behind the deciding one are not in the explanation."""
    made = policy(
        Rule(name="a", commands=("reload",)), Rule(name="b", users=("ana",), action="deny"), Rule(name="c")
    )
    steps = made.explain(ask("show version"))
    assert [(step.rule, step.matched) for step in steps] == [("a", False), ("b", True), ("b", False)]
    assert steps[0].words == "commands reload: not 'show version'"
    assert steps[-1].words == "deny, FAIL: rule b denies it"


def test_source_networks_hold_v4_v6_and_mapped_addresses() -> None:
    """rem_addr is text of the device: an IPv4-mapped address is IPv4."""
    made = policy(Rule(name="r", source_networks=("192.0.2.0/24", "2001:db8::/32")))
    for address, is_in in (
        ("192.0.2.77", True), ("::ffff:192.0.2.77", True), ("2001:db8::1", True),
        ("192.0.3.1", False), ("", False),
    ):  # fmt: skip
        assert made.decide(ask(rem_addr=address)).permit is is_in


def test_a_session_gets_the_added_pairs_as_pass_add() -> None:
    """RFC 8907 section 6.2: PASS_ADD, with no arguments when there is nothing to add."""
    assert policy(Rule(name="r")).decide(ask()).args == ()
    decision = policy(Rule(name="r", add=("priv-lvl=15", "idletime*10"))).decide(ask())
    assert (decision.status, decision.args) == (PASS_ADD, ("priv-lvl=15", "idletime*10"))


def test_a_session_gets_the_replacing_pairs_as_pass_repl() -> None:
    """RFC 8907 section 6.2: PASS_REPL carries all that counts."""
    decision = policy(Rule(name="r", replace=("service=shell", "priv-lvl=1"))).decide(
        ask(args=("service=shell", "cmd=", "priv-lvl=15"))
    )
    assert (decision.status, decision.args) == (PASS_REPL, ("service=shell", "priv-lvl=1"))


def test_a_command_never_gets_pairs() -> None:
    """Per-command authorization is PASS_ADD with nothing, or FAIL; unknown pairs beside it do not matter."""
    made = policy(Rule(name="r", add=("priv-lvl=15",)))
    query = ask("show version")
    assert made.decide(query).args == ()
    with_more = ask(args=(*query.args, "priv-lvl=15", "task=7"))
    assert (made.decide(with_more).status, made.decide(with_more).args) == (PASS_ADD, ())


@pytest.mark.parametrize(
    ("asked", "granted", "status", "args", "refused"),
    [
        (("priv-lvl=15",), ("priv-lvl=15",), PASS_ADD, (), ""),
        (("priv-lvl=15",), ("priv-lvl=1",), FAIL, (), "priv-lvl"),
        (("addr=10.0.0.1",), (), FAIL, (), "addr"),
        (("addr=10.0.0.1",), ("addr*10.0.0.2",), PASS_ADD, (), ""),
        (("shell:roles*",), ("shell:roles=admin",), PASS_ADD, ("shell:roles=admin",), ""),
        (("shell:roles*",), ("priv-lvl=15",), PASS_ADD, ("priv-lvl=15",), ""),
        (("priv-lvl*15",), ("priv-lvl=15",), PASS_ADD, (), ""),
        (("priv-lvl*15",), ("priv-lvl=1",), PASS_REPL, ("service=shell", "cmd=", "priv-lvl=1"), ""),
        (("timeout*9",), (), PASS_REPL, ("service=shell", "cmd="), ""),
        (("oddity",), (), PASS_ADD, (), ""),
        ((), ("a=1", "a=2"), PASS_ADD, ("a=1", "a=2"), ""),
    ],
)
def test_pairs_of_the_device_are_weighed_against_those_granted(
    asked: tuple[str, ...], granted: tuple[str, ...], status: int, args: tuple[str, ...], refused: str
) -> None:
    """RFC 8907 section 6.1: what is mandatory and not understood fails, what is optional may be ignored."""
    assert merge_pairs(("service=shell", "cmd=", *asked), granted) == (status, args, refused)


def test_a_mandatory_pair_that_is_not_granted_fails_and_says_so() -> None:
    """The reason names the attribute, never its value."""
    decision = policy(Rule(name="r")).decide(ask(args=("service=shell", "cmd=", "priv-lvl=15")))
    assert (decision.permit, decision.rule) == (False, "r")
    assert decision.reason == "rule r matches but does not grant the mandatory attribute priv-lvl"


def test_the_first_separator_counts() -> None:
    """RFC 8907 section 6.1: the value may hold both signs."""
    assert split_pair("a=b*c=d") == ("a", "=", "b*c=d")
    assert split_pair("a*b=c") == ("a", "*", "b=c")
    assert split_pair("abc") == ("abc", "", "")
    assert service_of(("cmd=", "service*ppp")) == "ppp"
    assert service_of(()) == ""
    assert command_line(("cmd=show", "cmd-arg=a=b", "cmd-arg=<CR>")) == "show a=b"


def test_a_line_that_is_too_long_is_denied_unseen() -> None:
    """Regular expressions have no time limit, so their input has a length limit."""
    made = policy(Rule(name="r"))
    query = ask(args=("service=shell", "cmd=x", *("cmd-arg=" + "y" * 200 for _ in range(8))))
    assert made.decide(query).rule == NO_RULE
    assert "longer than 1024" in made.decide(query).reason
    assert len(made.explain(query)) == 1


def test_a_window_follows_the_clock_and_the_decision_says_until_when() -> None:
    """A remembered decision ends where a window opens or closes."""
    clock = [dt.datetime(2026, 3, 2, 7, 59, tzinfo=BERLIN)]
    when = TimeWindow(days=("mon", "tue"), start="08:00", end="17:00", timezone="Europe/Berlin")
    made = policy(Rule(name="r", when=when), now=lambda: clock[0])
    before = made.decide(ask())
    assert not before.permit
    assert before.valid_until == dt.datetime(2026, 3, 2, 8, 0, tzinfo=BERLIN).timestamp()
    for hour, minute, is_open in ((8, 0, True), (16, 59, True), (17, 0, False)):
        clock[0] = dt.datetime(2026, 3, 2, hour, minute, tzinfo=BERLIN)
        assert made.decide(ask()).permit is is_open
    clock[0] = dt.datetime(2026, 3, 2, 12, 0, tzinfo=BERLIN)
    assert made.decide(ask()).permit, "a clock that was set back is believed"
    clock[0] = dt.datetime(2026, 3, 4, 12, 0, tzinfo=BERLIN)
    assert made.explain(ask())[0].words == "time window mon tue 08:00-17:00 Europe/Berlin: closed now"


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    """Friday 22:00-06:00 is open on Saturday at 05:00, not on Friday at 05:00."""
    window = Window(TimeWindow(days=("fri",), start="22:00", end="06:00"))
    for day, hour, is_open in ((6, 5, False), (6, 22, True), (7, 5, True), (7, 6, False), (7, 22, False)):
        assert window.is_open(dt.datetime(2026, 3, day, hour, tzinfo=dt.UTC)) is is_open


JUMPS = (
    ("Europe/Berlin", dt.datetime(2026, 3, 28, 13, tzinfo=dt.UTC)),
    ("Europe/Berlin", dt.datetime(2026, 10, 24, 13, tzinfo=dt.UTC)),
    ("Australia/Lord_Howe", dt.datetime(2026, 4, 4, 3, tzinfo=dt.UTC)),
    ("Australia/Lord_Howe", dt.datetime(2026, 10, 3, 3, 30, tzinfo=dt.UTC)),
    ("America/St_Johns", dt.datetime(2026, 11, 1, 0, tzinfo=dt.UTC)),
    ("UTC", dt.datetime(2026, 3, 28, tzinfo=dt.UTC)),
)


@given(
    jump=st.sampled_from(JUMPS),
    minutes=st.integers(0, 24 * 60),
    start=st.integers(0, 4 * 60),
    end=st.integers(0, 4 * 60) | st.integers(0, 1439),
)
def test_nothing_changes_before_the_next_change(
    jump: tuple[str, dt.datetime], minutes: int, start: int, end: int
) -> None:
    """Also where summer time begins or ends in between: probed in every minute up to the change."""
    zone, first = jump
    texts = [f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end)]
    window = Window(TimeWindow(days=("mon", "sat", "sun"), start=texts[0], end=texts[1], timezone=zone))
    now = first + dt.timedelta(minutes=minutes)
    change = window.next_change(now)
    assert now.timestamp() < change <= now.timestamp() + 2 * 86_400
    is_open = window.is_open(now)
    for second in range(int(now.timestamp()), int(change), 60):
        assert window.is_open(dt.datetime.fromtimestamp(second, dt.UTC)) is is_open
    assert window.is_open(dt.datetime.fromtimestamp(change - 1, dt.UTC)) is is_open


def test_a_jump_of_the_clock_is_a_change() -> None:
    """At 01:00 UTC Berlin's clocks go from 02:00 to 03:00: what opens at 02:30 opens then."""
    window = Window(TimeWindow(start="02:30", end="04:00", timezone="Europe/Berlin"))
    before = dt.datetime(2026, 3, 29, 0, 30, tzinfo=dt.UTC)
    jump = dt.datetime(2026, 3, 29, 1, 0, tzinfo=dt.UTC)
    assert not window.is_open(before)
    assert window.next_change(before) == jump.timestamp()
    assert window.is_open(jump)


def test_the_memory_of_decisions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that asks ever new things does not fill the memory, and gets right answers."""
    monkeypatch.setattr(policy_module, "CACHED_DECISIONS_COUNT", 8)
    monkeypatch.setattr(policy_module, "CACHED_PEERS_COUNT", 4)
    made = policy(Rule(name="even", commands=("/[02468]$/",)))
    for number in [*range(100), *range(90, 100)]:
        assert made.decide(ask(f"show {number}", user=f"u{number}")).permit is (number % 2 == 0)
    assert len(made._young) <= 8
    assert len(made._old) <= 8
    assert len(made._for_peer) <= 4


def test_the_port_is_not_part_of_what_is_remembered() -> None:
    """Rules do not look at the port, so terminals share one decision."""
    made = policy(Rule(name="r"))
    assert made.decide(ask(port="tty1")) is made.decide(ask(port="tty2"))


NAMES = st.sampled_from(["a", "b", "c"])
SOME = st.lists(NAMES, max_size=2).map(tuple)
RULES = st.builds(
    Rule,
    name=NAMES,
    users=SOME,
    user_groups=SOME,
    device_groups=SOME,
    services=SOME,
    commands=st.lists(st.sampled_from(["a", "a b", "/b/", "/^c$/"]), max_size=2).map(tuple),
    source_networks=st.sampled_from([(), ("10.0.0.0/8",)]),
    action=st.sampled_from(["permit", "deny"]),
)


QUERIES = st.builds(
    lambda words, **changes: ask(" ".join(words) or None, **changes),
    st.lists(NAMES, max_size=3),
    user=NAMES,
    user_groups=SOME,
    device_groups=SOME,
    service=NAMES,
    rem_addr=st.sampled_from(["10.1.1.1", "x"]),
)


@given(st.lists(RULES, max_size=6), QUERIES)
def test_explain_and_decide_name_the_same_rule(rules: list[Rule], query: Query) -> None:
    """The explanation is of the decision that was taken, for any rules and any query."""
    made = policy(*rules)
    decision = made.decide(query)
    *steps, last = made.explain(query)
    assert last.decision == decision
    matched = [step.rule for step in steps if step.matched]
    assert matched == ([] if decision.rule == NO_RULE else [decision.rule])


def test_a_user_of_a_directory_is_named_in_any_spelling() -> None:
    """Directories compare names without case, so a rule must as well; a local user is compared exactly."""
    rule = Rule(name="named", users=("Zoe", "ana"))
    made = Policy(TacacsSettings(users=(User(name="ana"),), rules=(rule,)))
    permitted = {
        name: made.decide(ask(user=name)).permit for name in ("ZOE", "zoe", "Zoe", "ana", "Ana", "zo e", "")
    }
    assert permitted == {
        "ZOE": True, "zoe": True, "Zoe": True, "ana": True, "Ana": False, "zo e": False, "": False,
    }  # fmt: skip


def test_an_explanation_shows_no_password_that_was_typed() -> None:
    """The command is compared as it is, and told masked."""
    steps = policy(Rule(name="look", commands=("show",))).explain(ask("enable secret hunter2"))
    assert steps[0].words == "commands show: not 'enable secret ***'"
    assert "hunter2" not in repr(steps)


@pytest.mark.parametrize(
    ("args", "is_permitted"),
    [
        (("service=shell", "cmd="), True),
        (("service=shell", "cmd=show", "cmd-arg=version"), True),
        (("service=shell", "cmd=reload"), False),
    ],
)
def test_an_empty_command_entry_stands_for_the_session_and_no_command(args, is_permitted):
    """config.Rule.commands: '' is the session authorization itself, and nothing else."""
    rule = Rule(name="look", commands=("", "show"), add=("priv-lvl=1",))
    decision = Policy(TacacsSettings(rules=(rule,))).decide(Query("ana", service="shell", args=args))
    assert decision.permit is is_permitted
    assert decision.args == (("priv-lvl=1",) if args[-1] == "cmd=" else ())
