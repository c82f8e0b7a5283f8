"""What a setting names: whether a file can be read, whether an address is on this machine.

Looks no name up and dials nothing.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path


def file_trouble(path: str) -> str:
    """Say why a file cannot be read; empty if it can."""
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        words = (error.strerror or "not readable") if isinstance(error, OSError) else "no path"
        return f"{path}: {words.lower()}"
    return ""


def is_near(address: str) -> bool:
    """Tell whether ``host:port`` or ``unix:/path`` is a unix socket or a loopback address."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0].strip("[]"))


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and nothing else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
