"""What is stored of a user: from the settings, the user list, or a query at a server.

``find`` is what a client's login asks. Knows nothing of connections: who runs the query gives a function. A login
storm asks the server once per user, and what it said is kept for a while.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from sojourn.core.clock import Clock, monotonic
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable

RunQuery = Callable[[str, str], Awaitable[Sequence[Sequence[bytes | None]]]]
"""Runs a statement with one parameter, the user's name, and returns its rows in text."""

CACHED_USERS_COUNT: Final = 10_000
MAX_ABSENT_S: Final = 1.0
"""A user who is not there is asked for again sooner: somebody may be making it just now."""

_COLUMNS_COUNT: Final = 2


class _Entry(NamedTuple):
    secret: Secret | None
    good_until: float


class _Question:
    """A query under way: whoever asks for the same user waits for its answer."""

    __slots__ = ("done", "entry", "error")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.entry: _Entry | None = None
        self.error: BackendUnavailable | None = None


class SecretSource:
    """Where the secrets of users are found: in ``known`` tables first, earlier ones before later ones.

    Lives as long as one configuration. Always true: one query per user is under way at a time; at most
    ``size_count`` answers are kept.

    Args:
        known: tables of secrets by user, such as those of the settings and of ``userlist.txt``.
        query: the statement with ``$1`` for the user, which returns user and secret; "" asks nobody.
        run: runs it.
        cache_s: how long an answer is good; 0 for as long as others wait for it.
    """

    def __init__(
        self,
        *known: Mapping[str, Secret],
        query: str = "",
        run: RunQuery | None = None,
        cache_s: float = 0.0,
        size_count: int = CACHED_USERS_COUNT,
        clock: Clock = monotonic,
    ) -> None:
        self._known = (
            known[0]
            if len(known) == 1
            else {user: secret for table in reversed(known) for user, secret in table.items()}
        )
        self._query = query
        self._run = run
        self._cache_s = cache_s
        self._size_count = size_count
        self._clock = clock
        self._answers: OrderedDict[str, _Entry] = OrderedDict()
        self._questions: dict[str, _Question] = {}

    def __len__(self) -> int:
        return len(self._answers)

    async def find(self, user: str) -> Secret | None:
        """Return what is stored of a user, or None.

        Raises: BackendUnavailable if the server cannot be asked, or answers other than with user and secret.
        """
        known = self._known.get(user)
        if known is not None:
            return known
        if self._run is None or not self._query:
            return None
        entry = self._kept(user)
        while entry is None:
            question = self._questions.get(user)
            if question is None:
                entry = await self._ask(user, self._run)
                break
            await question.done.wait()
            if question.error is not None:
                # One error raised by many would mix up their tracebacks.
                error = question.error
                raise BackendUnavailable(error.backend, error.after_s, error.cause)
            # Without an answer the one who asked was cancelled: the next one asks.
            entry = question.entry
        return entry.secret

    def forget(self, user: str = "") -> None:
        """Drop what was kept of a user, or of all: a server refused it, or an operator says so."""
        if user:
            self._answers.pop(user, None)
        else:
            self._answers.clear()

    def _kept(self, user: str) -> _Entry | None:
        entry = self._answers.get(user)
        if entry is None:
            return None
        if entry.good_until <= self._clock():
            del self._answers[user]
            return None
        self._answers.move_to_end(user)
        return entry

    async def _ask(self, user: str, run: RunQuery) -> _Entry:
        question = self._questions[user] = _Question()
        try:
            secret = _secret_in(await run(self._query, user), user)
        except BackendUnavailable as error:
            question.error = error
            raise
        else:
            good_s = self._cache_s if secret is not None else min(self._cache_s, MAX_ABSENT_S)
            entry = question.entry = _Entry(secret, self._clock() + good_s)
        finally:
            del self._questions[user]
            question.done.set()
        if good_s > 0:
            self._answers[user] = entry
            if len(self._answers) > self._size_count:
                self._answers.popitem(last=False)
        return entry


def _secret_in(rows: Sequence[Sequence[bytes | None]], user: str) -> Secret | None:
    """Return the secret in the answer to the query."""
    if not rows:
        return None
    if len(rows) > 1 or len(rows[0]) < _COLUMNS_COUNT:
        cause = f"{len(rows)} rows of {len(rows[0])} columns; wanted one row of user and secret"
        raise BackendUnavailable("auth_query", 0.0, cause)
    name, secret = rows[0][:_COLUMNS_COUNT]
    if name != user.encode("utf-8", "surrogateescape"):
        raise BackendUnavailable("auth_query", 0.0, "the row of another user than asked for")
    if not secret:
        return None
    try:
        return Secret(secret.decode())
    except UnicodeDecodeError:
        raise BackendUnavailable("auth_query", 0.0, "a secret that is not UTF-8") from None
