"""What happened to a simulated panel: counts, and the last messages that it heard and that were acknowledged.

Is the watcher of its lines. Knows no connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from sojourn.gateways.itv2.messages import Message, MultipleMessages
from sojourn.gateways.itv2.peer.line import Step, Told

LOG_COUNT: Final = 10_000
"""Messages that are kept, of each kind."""


class Record:
    """What happened so far; grows until its panel ends.

    Args:
        log_count: so many of the last messages are kept, 0 for none.
        stir: called after each change.
        on_told, on_sent, on_heard: hear of it too, such as a screen or a stopwatch.
    """

    def __init__(
        self,
        log_count: int,
        stir: Callable[[], None],
        on_told: Callable[[Told], None] | None = None,
        on_sent: Callable[[Message], None] | None = None,
        on_heard: Callable[[Message], None] | None = None,
    ) -> None:
        self.step = Step.DIALED
        self.words = ""
        self.connections_count = 0
        self.handshakes_count = 0
        self.sent_count = 0
        self.acknowledged_count = 0
        self.heard_count = 0
        self.acknowledgements: deque[Message] = deque(maxlen=log_count)
        self.commands: deque[Message] = deque(maxlen=log_count)
        self.sayings: deque[Told] = deque(maxlen=min(log_count, 100))
        self._stir = stir
        self._on_told = on_told
        self._on_sent = on_sent
        self._on_heard = on_heard

    def told(self, told: Told) -> None:
        """Note where the handshake stands, or why a connection ended."""
        self.step, self.words = told.step, told.words
        self.sayings.append(told)
        if self._on_told is not None:
            self._on_told(told)
        self._stir()

    def connected(self) -> None:
        """Note a finished handshake."""
        self.handshakes_count += 1
        self._stir()

    def sent(self, message: Message) -> None:
        """Note a message that is on its way."""
        self.sent_count += 1
        if self._on_sent is not None:
            self._on_sent(message)

    def acknowledged(self, message: Message) -> None:
        """Note what the server has taken over; messages of one 0623 are noted one by one."""
        parts = message.messages if isinstance(message, MultipleMessages) else (message,)
        self.acknowledged_count += len(parts)
        self.acknowledgements.extend(parts)
        self._stir()

    def heard(self, message: Message) -> None:
        """Note what the server has sent."""
        self.heard_count += 1
        self.commands.append(message)
        if self._on_heard is not None:
            self._on_heard(message)
        self._stir()
