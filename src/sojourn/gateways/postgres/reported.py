"""What a server reports about its parameters (ParameterStatus): one shared object per set of values.

Thousands of clients see the same handful of values, so that each keeps one reference and a comparison by identity
says whether another server would tell it anything new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from weakref import WeakValueDictionary

from sojourn.errors import WireError
from sojourn.gateways.postgres import wire

_LIMIT_COUNT = 256
"""PostgreSQL 18 reports 16, and extensions may add some; each new one costs as much as all that are there."""


class Reported:
    """An immutable set of reported parameters.

    Always true: two with the same values are the same object; make them by ``of``.
    """

    __slots__ = ("__weakref__", "_messages", "values")

    def __init__(self, values: dict[str, str]) -> None:
        self.values: Mapping[str, str] = values
        self._messages = b""

    @property
    def messages(self) -> bytes:
        """Return the ParameterStatus messages of all of it, made once."""
        if not self._messages:
            self._messages = b"".join(wire.parameter_status(*item) for item in self.values.items())
        return self._messages

    @staticmethod
    def of(values: Mapping[str, str]) -> Reported:
        """Return the one object with these values.

        Raises: WireError if they are more than any server has.
        """
        if len(values) > _LIMIT_COUNT:
            raise WireError(f"{len(values)} parameters", f"at most {_LIMIT_COUNT}", "ParameterStatus")
        key = tuple(sorted(values.items()))
        known = _known.get(key)
        if known is None:
            known = _known[key] = Reported(dict(key))
        return known

    def with_value(self, name: str, value: str) -> Reported:
        """Return the set with one value changed.

        Raises: as ``of``.
        """
        if self.values.get(name) == value:
            return self
        return Reported.of({**self.values, name: value})

    def news_for(self, seen: Reported) -> bytes:
        """Return the ParameterStatus messages that tell a client what changed since it saw ``seen``."""
        return b"".join(self._changes(seen))

    def _changes(self, seen: Reported) -> Iterator[bytes]:
        for name, value in self.values.items():
            if seen.values.get(name) != value:
                yield wire.parameter_status(name, value)


_known: WeakValueDictionary[tuple[tuple[str, str], ...], Reported] = WeakValueDictionary()
EMPTY_REPORT = Reported.of({})
