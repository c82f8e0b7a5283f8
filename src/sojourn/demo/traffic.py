"""What a switch asks of the server all day, the demo's version: every kind of request, with what should come of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import NamedTuple

from sojourn.demo.site import ANA, BEN, Site
from sojourn.errors import ProtocolError, SojournError
from sojourn.gateways.tacacs.messages import AcctFlag, AuthenType
from sojourn.gateways.tacacs.peer import Outcome, TacacsClient

NO_ANSWER = "no answer"
_SESSION = ("service=shell", "cmd=")
_SHOW = ("service=shell", "cmd=show", "cmd-arg=version", "cmd-arg=<cr>")
_RELOAD = ("service=shell", "cmd=reload", "cmd-arg=<cr>")
_RECORD = ("task_id=7", "service=shell", "cmd=show version <cr>")


class Row(NamedTuple):
    """One request: what was asked, by whom, which answer is right, and what came back."""

    what: str
    user: str
    wanted: str
    outcome: Outcome

    @property
    def is_right(self) -> bool:
        """Say whether the server did what it should."""
        return self.outcome.status == self.wanted


async def send_traffic(site: Site) -> list[Row]:
    """Do what a day at a switch brings.

    Raises: SojournError or OSError where the server did not answer at all.
    """
    async with site.client() as switch:
        rows = [row async for row in _over_one_connection(switch, site)]
    async with site.tls_client() as switch:
        login = switch.login(ANA, site.passwords[ANA], authen_type=AuthenType.PAP)
        rows.append(Row("login over TLS 1.3", ANA, "PASS", await login))
    async with site.client("a key that nobody has configured") as stranger:
        login = stranger.login(ANA, site.passwords[ANA], authen_type=AuthenType.PAP)
        rows.append(Row("login with a wrong key", ANA, NO_ANSWER, await _refused(login)))
    return rows


async def _over_one_connection(switch: TacacsClient, site: Site) -> AsyncIterator[Row]:
    ana, ben = site.passwords[ANA], site.passwords[BEN]
    for kind, name in (
        (AuthenType.PAP, "PAP"),
        (AuthenType.ASCII, "ASCII"),
        (AuthenType.CHAP, "CHAP"),
        (AuthenType.MSCHAP, "MS-CHAPv1"),
        (AuthenType.MSCHAPV2, "MS-CHAPv2"),
    ):
        yield Row(f"login, {name}", ANA, "PASS", await switch.login(ANA, ana, authen_type=kind))
    yield Row("session authorization", ANA, "PASS_ADD", await switch.authorize(ANA, _SESSION))
    yield Row("command: reload", ANA, "PASS_ADD", await switch.authorize(ANA, _RELOAD))
    guess = await switch.login(BEN, "a guess", authen_type=AuthenType.ASCII)
    yield Row("login, wrong password", BEN, "FAIL", guess)
    # By CHAP: unlike a password that was right a moment ago, it is always looked at, and ends the count of failures.
    yield Row("login, CHAP", BEN, "PASS", await switch.login(BEN, ben, authen_type=AuthenType.CHAP))
    yield Row("command: show version", BEN, "PASS_ADD", await switch.authorize(BEN, _SHOW))
    yield Row("command: reload", BEN, "FAIL", await switch.authorize(BEN, _RELOAD))
    start = await switch.account(AcctFlag.START, BEN, _RECORD)
    yield Row("accounting START", BEN, "SUCCESS", start)
    stop = await switch.account(AcctFlag.STOP, BEN, (*_RECORD, "elapsed_time=3"))
    yield Row("accounting STOP", BEN, "SUCCESS", stop)


async def _refused(login: Awaitable[Outcome]) -> Outcome:
    """Return what came of a login that the server cannot read: nothing that makes sense to the switch."""
    try:
        return await login
    except ProtocolError:
        return Outcome(NO_ANSWER)
    except SojournError as error:
        return Outcome(type(error).__name__)
