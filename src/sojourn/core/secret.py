"""Values that must not be seen: wrapped from the configuration file to the one place that uses them.

Knows nothing of where secrets come from; resolving ``${file:...}`` references is the configuration loader's work.
"""

from __future__ import annotations

import hmac
from typing import final


@final
class Secret:
    """A text that never shows itself: ``repr``, ``str`` and format give a mask.

    Two secrets compare in constant time. Call :meth:`reveal` only where the value is used.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; never log, store or send what comes back."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)
