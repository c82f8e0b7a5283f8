"""People of the demo at work: engineers who log in to devices and type commands, and somebody who guesses passwords.

Each device has an address of its own on loopback and one connection that carries all of its sessions. Who may do what
is the site's matter; here some are refused, as in life. Knows no server.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sojourn.demo.site import (
    ANA,
    BACKUP,
    BEN,
    CHLOE,
    CORE,
    DMITRI,
    EDGE,
    EVE,
    FIREWALL,
    SWITCH,
    Equipment,
    Site,
)
from sojourn.errors import ProtocolError, SojournError
from sojourn.gateways.tacacs.messages import AcctFlag, AuthenType

if TYPE_CHECKING:
    from sojourn.gateways.tacacs.peer import TacacsClient

PAUSE_S: Final = (0.3, 2.5)
"""Between two commands: the shortest and the longest."""
TYPING_S: Final = (0.5, 3.0)
"""For a password at its prompt, the same."""
AWAY_S: Final = (1.0, 8.0)
"""Between two logins of one person, the same."""
GUESS_EVERY_S: Final = 12.0
STRANGER_EVERY_S: Final = 45.0
"""A device that speaks with a key that nobody has configured."""
AGAIN_AFTER_S: Final = 2.0
TYPO_EVERY: Final = 12
"""One login in so many has a wrong password."""
GUESSED: Final = BACKUP
"""Nobody works by this name, so that nobody is missed while it is locked."""

_SESSION = ("service=shell", "cmd=")


class Shift(NamedTuple):
    """Who works where, at what, with how many commands before they log out."""

    user: str
    device: Equipment
    commands: tuple[str, ...]
    commands_count: int = 5


SHIFTS: Final = (
    Shift(
        ANA, CORE, ("show ip bgp summary", "show ip route", "configure terminal", "write memory", "reload")
    ),
    Shift(BEN, SWITCH, ("show interfaces", "show mac address-table", "ping 192.0.2.17", "reload"), 4),
    Shift(CHLOE, FIREWALL, ("show conn count", "show access-list", "configure terminal", "clear xlate"), 6),
    Shift(DMITRI, EDGE, ("show version", "ping 192.0.2.1", "show logging", "configure terminal"), 3),
    Shift(
        EVE,
        EDGE,
        ("show interfaces", "traceroute 198.51.100.4", "show running-config", "copy flash: tftp:"),
        4,
    ),
    Shift(EVE, CORE, ("show version",), 1),
)
"""The last one is refused every time: contractors have no business there."""

Report = Callable[[Exception], None]
"""What hears of work that failed."""


def begin_shifts(site: Site, tasks: asyncio.TaskGroup, report: Report) -> None:
    """Let everybody work in tasks of their own, until these are cancelled."""
    chance = random.Random(49)  # noqa: S311 - who types what is no secret
    for shift in SHIFTS:
        tasks.create_task(_again_and_again(partial(_work, site, shift, chance), report))
    tasks.create_task(_again_and_again(partial(_guess, site, chance), report))
    tasks.create_task(_again_and_again(partial(_be_a_stranger, site), report))


async def _again_and_again(work: Callable[[], Coroutine[Any, Any, None]], report: Report) -> None:
    while True:
        try:
            await work()
        except (SojournError, OSError) as error:
            report(error)
        await asyncio.sleep(AGAIN_AFTER_S)


async def _work(site: Site, shift: Shift, chance: random.Random) -> None:
    """Log in and out on one connection. Raises: SojournError or OSError."""
    await asyncio.sleep(chance.uniform(*AWAY_S))
    typing_s = chance.uniform(*TYPING_S)
    async with site.client(device=shift.device, typing_s=typing_s) as line:
        while True:
            await _sit_down(line, site, shift, chance)
            await asyncio.sleep(chance.uniform(*AWAY_S))


async def _sit_down(line: TacacsClient, site: Site, shift: Shift, chance: random.Random) -> None:
    user = shift.user
    if not chance.randrange(TYPO_EVERY):
        await line.login(user, "a slip of the finger")
    if not (await line.login(user, site.passwords[user])).passed:
        return
    if not (await line.authorize(user, _SESSION)).passed:
        return
    record = (f"task_id={chance.randrange(1, 10_000)}", "service=shell")
    await line.account(AcctFlag.START, user, record)
    for _ in range(shift.commands_count):
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        command = chance.choice(shift.commands)
        if (await line.authorize(user, ("service=shell", *_pairs(command)))).passed:
            await line.account(AcctFlag.STOP, user, (*record, f"cmd={command} <cr>"))
    await line.account(AcctFlag.STOP, user, record)


def _pairs(command: str) -> tuple[str, ...]:
    """Return a command as a device asks for it. Source: RFC 8907 section 8.2."""
    verb, *words = command.split()
    return f"cmd={verb}", *(f"cmd-arg={word}" for word in (*words, "<cr>"))


async def _guess(site: Site, chance: random.Random) -> None:
    """Guess a password until the user is locked, and go on. Raises: SojournError or OSError."""
    async with site.client(device=FIREWALL) as line:
        while True:
            await asyncio.sleep(GUESS_EVERY_S)
            await line.login(GUESSED, f"guess {chance.randrange(1_000)}", authen_type=AuthenType.PAP)


async def _be_a_stranger(site: Site) -> None:
    """Ask with a key that the server cannot read us by. Raises: SojournError or OSError."""
    await asyncio.sleep(STRANGER_EVERY_S)
    try:
        async with site.client("a key that nobody has configured") as line:
            await line.login(ANA, site.passwords[ANA], authen_type=AuthenType.PAP)
    except ProtocolError:
        return  # the answer makes no sense to us either
