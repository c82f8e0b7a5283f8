"""Words for the numbers of a protocol, where they are plain ints in small namespaces."""

from __future__ import annotations

from functools import cache


@cache
def name_of(namespace: type, value: int) -> str:
    """Return the namespace's word for ``value``, such as ``"GETPASS"``, or ``"undefined (9)"``."""
    for name, number in vars(namespace).items():
        if name.isupper() and number == value:
            return name
    return f"undefined ({value})"


@cache
def flag_names(namespace: type, value: int) -> str:
    """Return the words for the bits that are set in ``value``, joined by ``|``, or ``"none"``."""
    bits = (1 << position for position in range(value.bit_length()))
    return "|".join(name_of(namespace, bit) for bit in bits if value & bit) or "none"
