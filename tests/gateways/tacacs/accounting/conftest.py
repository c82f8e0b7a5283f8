"""What the accounting tests share: records like a router's, and an alarm bell that can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sojourn.gateways.tacacs.accounting import Record, RecordMaker
from sojourn.gateways.tacacs.messages import AcctFlag, AcctRequest, AuthenMethod, AuthenType, Service

ARGS = ("task_id=13", "timezone=UTC", "service=shell", "priv-lvl=15", "cmd=show version <cr>")


class Alarms:
    """An ``on_alarm`` that remembers, and lets a test wait for what it wants to hear."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self._news = asyncio.Event()

    def __call__(self, sink: str, what: str) -> None:
        self.heard.append((sink, what))
        self._news.set()

    async def wait_for(self, sink: str, beginning: str, times: int = 1) -> None:
        """Wait until ``sink`` has said something with this beginning so many times, at most 20 seconds."""
        async with asyncio.timeout(20):
            while sum(one == sink and what.startswith(beginning) for one, what in self.heard) < times:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until a condition holds, at most 20 seconds; the loop turns meanwhile."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - a condition on a snapshot rings no event
                await asyncio.sleep(0)

    return wait


@pytest.fixture
def make_request() -> Callable[..., AcctRequest]:
    def make(*args: str, flags: int = AcctFlag.STOP, user: str = "ana") -> AcctRequest:
        return AcctRequest(
            flags=flags,
            authen_method=AuthenMethod.TACACSPLUS,
            priv_lvl=15,
            authen_type=AuthenType.ASCII,
            service=Service.LOGIN,
            user=user,
            port="tty7",
            rem_addr="192.0.2.9",
            args=args or ARGS,
        )

    return make


@pytest.fixture
def make_record(make_request: Callable[..., AcctRequest]) -> Callable[..., Record]:
    maker = RecordMaker("aaa-1")

    def make(*args: str, **values: object) -> Record:
        request = make_request(*args, **values)
        return maker.make(request, device="core-1", device_address="10.0.0.1", session_id=0xC0FFEE)

    return make
