"""``sojourn probe itv2``: dial as a panel would, and say at which step of the handshake what happened."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Annotated, Final, NamedTuple

import typer

from sojourn.cli.options import (
    Type1CodeEnvOption,
    Type1CodeFileOption,
    Type1Option,
    Type2CodeEnvOption,
    Type2CodeFileOption,
)
from sojourn.cli.output import FAILED, print_error, print_table
from sojourn.cli.simulate_panel import PORT, read_identity, split_address
from sojourn.gateways.itv2.peer import LineSettings, PanelIdentity, SimulatedPanel, Step, Told

_COLUMNS: Final = ("step", "what happened", "ms")
_NEVER_AGAIN_S: Final = 1e9
_COMPARE: Final = "compare this code with the panel's on the server, digit by digit, and its encryption type"
_NEXT: Final = {
    Step.DIALED: "does the server run there, and is the port 3072 open? On that host: sojourn check, then sojourn run",
    Step.OPENED: "is this id configured on the server, with a code of this encryption type? Its log says what it "
    "missed",
    Step.ANSWERED: "the server's log: it answered once and then no more",
    Step.AGREED: "the server's log: it answered once and then no more",
    Step.ASKED: _COMPARE,
    Step.GRANTED: _COMPARE,
    Step.ANSWERED_ACCESS: _COMPARE,
    Step.CONNECTED: "the server's log: the handshake was done, and then it did not acknowledge",
}
"""What to try next, by the last thing that worked."""

Row = tuple[str, str, str]


class _Plan(NamedTuple):
    """Whom to call, and as whom."""

    host: str
    port: int
    identity: PanelIdentity
    timeout_s: float


def itv2(
    address: Annotated[str, typer.Argument(help="host, host:port or [v6]:port; port 3072.")],
    *,
    integration_id: Annotated[
        str, typer.Option("--id", metavar="DIGITS", help="Integration Identification Number, 12 digits.")
    ],
    type1: Type1Option = False,
    type1_code_env: Type1CodeEnvOption = None,
    type1_code_file: Type1CodeFileOption = None,
    type2_code_env: Type2CodeEnvOption = None,
    type2_code_file: Type2CodeFileOption = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest wait for one step.")] = 10.0,
) -> None:
    """Dial as a panel, shake hands, poll once and say goodbye.

    Exit code 0 if everything worked. The newest connection of a panel wins: a panel that is connected under this id
    is disconnected, and dials again.
    """
    host, port = split_address(address, PORT)
    identity = read_identity(
        integration_id,
        is_type_1=type1,
        type_1=(type1_code_env, type1_code_file),
        type_2=(type2_code_env, type2_code_file),
    )
    probe = _Probe(_Plan(host, port, identity, timeout_s))
    is_fine = asyncio.run(probe.run())
    print_table(_COLUMNS, probe.rows)
    if not is_fine:
        print_error(probe.problem, _NEXT.get(probe.last_step, ""))
        raise typer.Exit(FAILED)


class _Probe:
    """One try, and the rows that tell of it."""

    def __init__(self, plan: _Plan) -> None:
        self.rows: list[Row] = []
        self.last_step = Step.DIALED
        self.problem = ""
        self._plan = plan
        self._began = perf_counter()
        self._is_over = False

    async def run(self) -> bool:
        """Go as far as it goes; says whether that was all the way."""
        plan = self._plan
        panel = SimulatedPanel(
            plan.identity,
            plan.host,
            plan.port,
            line=LineSettings(
                dial_s=plan.timeout_s,
                handshake_retry_s=_NEVER_AGAIN_S,
                reconnect_s=(_NEVER_AGAIN_S, _NEVER_AGAIN_S),
            ),
            on_told=self._told,
        )
        async with panel:
            try:
                await panel.until(lambda: panel.is_connected or self._is_over, plan.timeout_s)
                if panel.is_connected:
                    await self._talk(panel)
            except TimeoutError:
                self.problem = f"the server said nothing more within {plan.timeout_s:g} s"
        return self._is_over and not self.problem

    async def _talk(self, panel: SimulatedPanel) -> None:
        """Poll, and end the session. Raises: TimeoutError."""
        panel.poll()
        await panel.acknowledged(self._plan.timeout_s)
        self._done("poll", "acknowledged")
        panel.end_session()
        await panel.until(lambda: self._is_over, self._plan.timeout_s)

    def _told(self, told: Told) -> None:
        if told.step is Step.ENDED:
            self._is_over = True
        elif told.step > self.last_step or self.last_step is Step.DIALED:
            self._done(_STEPS.get(told.step, ""), told.words)
            self.last_step = told.step
            self._is_over |= told.step is Step.DIALED
            self.problem = told.words if told.step is Step.DIALED else ""
        elif told.words == GOODBYE:
            self._done("end", "the server has acknowledged our goodbye")
            self._is_over = True
        else:
            self._done("", told.words)
            self.problem = told.words
            self._is_over = True

    def _done(self, step: str, words: str) -> None:
        now = perf_counter()
        self.rows.append((step, words, f"{(now - self._began) * 1000:.1f}"))
        self._began = now


GOODBYE: Final = "we ended the session"
_STEPS: Final = {
    Step.DIALED: "dial",
    Step.OPENED: "1 OpenSession",
    Step.ANSWERED: "2 response",
    Step.AGREED: "4 OpenSession",
    Step.ASKED: "7 RequestAccess",
    Step.GRANTED: "8 response",
    Step.ANSWERED_ACCESS: "10 RequestAccess",
    Step.CONNECTED: "12 connected",
}
