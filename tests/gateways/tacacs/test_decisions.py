"""Why was this denied? Every decision says which rule decided and for what reason, and no packet goes without."""

from __future__ import annotations

import pytest
import tacacs_lab as labs
from tacacs_lab import author, command, pap, record, running, settings, start, typed

from sojourn.gateways.tacacs.messages import AuthorStatus, ContinueFlag, Flag
from sojourn.gateways.tacacs.policy import Policy, Query

SINGLE = Flag.SINGLE_CONNECT


@pytest.fixture
def lab(tmp_path):
    """Return what runs a laboratory with the usual settings, changed as said."""
    return lambda **changes: running(settings(tmp_path, **changes))


@pytest.mark.parametrize(
    "case",
    [
        (
            command("show", "version"),
            AuthorStatus.PASS_ADD,
            (),
            "",
            "ops-session",
            "rule ops-session permits it",
        ),
        (
            command("reload"),
            AuthorStatus.FAIL,
            (),
            "Not on my watch.",
            "no-reload",
            "rule no-reload denies it",
        ),
        (
            author("service=shell", "cmd="),
            AuthorStatus.PASS_ADD,
            ("priv-lvl=15",),
            "",
            "ops-session",
            "rule ops-session permits it",
        ),
        (
            author("service=ppp", "protocol=ip"),
            AuthorStatus.PASS_REPL,
            ("addr=192.0.2.9",),
            "",
            "ops-ppp",
            "rule ops-ppp permits it",
        ),
        (author("service=x25"), AuthorStatus.FAIL, (), "Not authorized", "(none)", "no rule matches"),
        (
            command("configure", name="ben"),
            AuthorStatus.FAIL,
            (),
            "Not authorized",
            "(none)",
            "no rule matches",
        ),
        (
            command("show", name="ben"),
            AuthorStatus.PASS_ADD,
            (),
            "",
            "guests-show",
            "rule guests-show permits it",
        ),
        (
            command("show", name="nobody"),
            AuthorStatus.FAIL,
            (),
            "",
            "(none)",
            "unknown, disabled or expired user",
        ),
        (
            author("service=shell", "cmd=", priv_lvl=99),
            AuthorStatus.ERROR,
            (),
            "",
            "(none)",
            "a header value that RFC 8907 does not define",
        ),
    ],
)
def test_an_authorization_says_rule_and_reason(lab, run, case):
    """The reply tells the device what to do; the event tells the operator why."""
    request_, status, args, message, rule, reason = case

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            reply = (await wire.ask(request_)).message
            assert (reply.status, reply.args, reply.server_msg, reply.data) == (status, args, message, "")
            (event,) = running_lab.said("tacacs.authorization")
            assert event == {
                "outcome": {AuthorStatus.FAIL: "deny", AuthorStatus.ERROR: "error"}.get(status, "permit"),
                "user": request_.user,
                "device": "lab",
                "rem_addr": "192.0.2.77",
                "request": request_.args,
                "rule": rule,
                "reason": reason,
            }

    run(main())


def test_every_decision_of_a_busy_day_has_its_event(lab, run):
    """One event per verdict, with user, device and reason; none for what was no request."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=SINGLE)
            for number, message in enumerate(
                (pap(password="wrong"), pap("nobody"), pap(priv_lvl=16), command("show"), command("reload"))
            ):
                await wire.ask(message, 10 + number)
            await wire.ask(record(), 20)
            await wire.ask(record(flags=6), 21)
            await wire.ask(start(), 30)
            await wire.ask(typed(labs.PASSWORD), 30, 3)
            await wire.ask(start(), 31)
            wire.send(wire.packet(typed("", ContinueFlag.ABORT), 31, 3))
            await wire.ask(start(4), 32)
            counts = {
                name: len(running_lab.said(f"tacacs.{name}"))
                for name in ("authentication", "authorization", "accounting")
            }
            assert counts == {"authentication": 6, "authorization": 2, "accounting": 2}
            for name in counts:
                for event in running_lab.said(f"tacacs.{name}"):
                    assert event["device"] == "lab"
                    assert event["user"]
                    assert event["reason"]

    run(main())


def test_an_accounting_event_says_who_from_where(lab, run):
    """An auditor finds the person in the log, whether or not the record was stored."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(record(), 1, flags=SINGLE)
            await wire.ask(record(flags=6), 2)
            stored, refused = running_lab.said("tacacs.accounting")
            assert stored == {
                "outcome": "success",
                "user": "ana",
                "device": "lab",
                "rem_addr": "192.0.2.77",
                "kind": "start",
                "reason": "stored",
            }
            assert (refused["outcome"], refused["rem_addr"], refused["kind"]) == (
                "error",
                "192.0.2.77",
                "undefined",
            )

    run(main())


def test_the_session_of_a_decision_can_be_traced(lab, run):
    """The event names its session, and the trace shows what was asked and answered, without the password."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap())
            running_lab.server.events.flush()
            (event,) = [one for one in running_lab.events if one.kind.name == "tacacs.authentication"]
            trace = running_lab.server.registry.trace(event.session.id)
            assert [entry.name for entry in trace] == ["AuthenStart", "check password", "pass", "AuthenReply"]
            assert labs.PASSWORD not in repr(trace)
            assert running_lab.server.registry.find(event.session.id).about == "ana"

    run(main())


def test_explain_and_the_server_say_the_same(lab, run):
    """``sojourn tacacs explain`` asks the policy itself, so it cannot tell another story."""

    async def main():
        async with lab() as running_lab:
            config = running_lab.gateway.config
            policy = Policy(config.settings)
            for request in (command("show"), command("reload"), author("service=x25")):
                async with running_lab.wire() as wire:
                    await wire.ask(request)
                event = running_lab.said("tacacs.authorization")[-1]
                query = Query(
                    user="ana",
                    user_groups=config.users.groups_of("ana"),
                    device="lab",
                    device_groups=("labs",),
                    rem_addr=request.rem_addr,
                    service=next(arg[8:] for arg in request.args if arg.startswith("service=")),
                    args=request.args,
                )
                decision = policy.explain(query)[-1].decision
                assert (decision.rule, decision.reason) == (event["rule"], event["reason"])

    run(main())


def test_nothing_that_is_said_holds_a_secret(lab, run):
    """Passwords and keys are in no event and in no trace, whatever went wrong with them."""

    async def main():
        secrets = ["tiger-one", "tiger-two", labs.PASSWORD, labs.KEY.decode(), labs.WRONG_KEY.decode()]
        async with lab() as running_lab:
            async with running_lab.wire() as wire:
                await wire.ask(start(data="tiger-one"), 1, flags=SINGLE)
                await wire.ask(typed("tiger-two"), 1, 3)
                await wire.ask(pap(password="tiger-one"), 2)
                await wire.ask(pap(), 3)
                await wire.ask(pap(), 5, key=labs.WRONG_KEY)
            registry = running_lab.server.registry
            said = repr(running_lab.events) + repr(list(registry.snapshots()))
            said += repr([registry.trace(one.id) for one in registry.snapshots()])
            assert [secret for secret in secrets if secret in said] == []

    run(main())
