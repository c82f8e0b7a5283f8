"""How the panel answered one command of ours: the three things that can be told apart.

Knows nothing of sequences and deadlines (the session does), nor of what a code means (:mod:`words` does).

Source: itv2-protocol.md sections 5.4 and 12.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sojourn.gateways.itv2.messages import Message

NOT_SENT: Final = "not sent: "


class Done(msgspec.Struct, frozen=True):
    """The panel did it; ``message`` is what was asked for, None where the answer is only a yes."""

    message: Message | None = None


class Rejected(msgspec.Struct, frozen=True):
    """The panel refused: a response code (0502), or with ``is_nack`` a code of the communicator (0501)."""

    code: int
    is_nack: bool = False


class UnknownOutcome(msgspec.Struct, frozen=True):
    """Nobody can say whether it was done: no answer in time, or the connection is gone. Never sent again by itself.

    A ``why`` that begins with ``NOT_SENT`` says that the command has not left the house.
    """

    why: str

    @property
    def was_sent(self) -> bool:
        """Say whether the panel can have got it."""
        return not self.why.startswith(NOT_SENT)


Answer = Done | Rejected | UnknownOutcome
