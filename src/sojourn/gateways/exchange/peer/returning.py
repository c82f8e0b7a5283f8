"""Whether, when and where a client comes back after a connection has ended.

The published table of close codes says whether; the server's terms say when, with a random part so that many clients
that lost the same server do not come back at once. What a close code does not say, a table of HTTP statuses does, for
connections that were never made. Pure; waits for nobody.

Source: exchange-session-service.md sections 5.4 and 5.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from sojourn.errors import ConnectionLost
from sojourn.gateways.exchange.messages import CLOSE_CODES, Close, CloseCode, ReconnectTerms

FIRST_TERMS: Final = ReconnectTerms(min_s=1.0, max_s=30.0, jitter=0.8)
"""Before the first welcome: 0.2 to 1 s, then twice as long each time. Source: section 5.6."""
_LONGEST_DOUBLING: Final = 64
"""A float overflows at 2 ** 1024, and a client may try for years."""
_BY_CODE: Final = {one.code: one for one in CLOSE_CODES}


class Dismissed(ConnectionLost):
    """The server has closed the connection with a code that says: do not come back.

    Args:
        close: the code's row in the published table.
        reason: what the server said with it.
    """

    def __init__(self, close: CloseCode, reason: str = "") -> None:
        super().__init__(
            f"closed with {close.code} {close.name}{': ' if reason else ''}{reason}; {close.advice}"
        )
        self.code = close.code
        self.name = close.name
        self.reason = reason


class Verdict(NamedTuple):
    """What a connection's end means: why it ended, and how to come back.

    ``after_s`` is what the server asked for besides the random wait, ``paced`` says that it has drawn that itself;
    ``is_hasty`` that coming back at once and again would only be met by the same.
    """

    why: str
    code: int = 0
    after_s: float = 0.0
    is_paced: bool = False
    is_hasty: bool = False
    wants_token: bool = False
    is_elsewhere: bool = False


def verdict_of_close(code: int | None, reason: str = "") -> Verdict:
    """Return what a close code means; None or a code that is none of ours is a connection that broke.

    Raises: Dismissed.
    """
    row = _BY_CODE.get(code or 0)
    if row is None:
        return Verdict(f"the connection broke ({code or 'no close frame'})", code or 0)
    if not row.comes_back:
        raise Dismissed(row, reason)
    return Verdict(
        f"closed with {row.code} {row.name}",
        row.code,
        is_hasty=row.code in (Close.LIMIT, Close.AUTH),
        wants_token=row.code == Close.AUTH,
        is_elsewhere=row.code == Close.RESTART,
    )


class Returning:
    """How long to wait, from one failure to the next.

    Args:
        random: a number in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self.terms = FIRST_TERMS
        self.failures_count = 0
        self._before = 0
        self._random = random

    def succeeded(self, terms: ReconnectTerms) -> None:
        """Take note of a welcome, and of the server's terms."""
        self.terms = terms
        self._before, self.failures_count = self.failures_count, 0

    def delay_s(self, verdict: Verdict) -> float:
        """Return how long to wait after the latest failure."""
        if verdict.is_paced:
            return verdict.after_s
        if verdict.is_hasty:
            self.failures_count = max(self.failures_count, self._before)
        terms = self.terms
        bound = terms.min_s * 2.0 ** min(self.failures_count, _LONGEST_DOUBLING)
        self.failures_count += 1
        return verdict.after_s + min(terms.max_s, bound) * (1.0 - terms.jitter * self._random())


def retry_after_of(text: str | None) -> float:
    """Return the seconds of a Retry-After header; a date, which our servers do not send, counts as one second."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        return 1.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
