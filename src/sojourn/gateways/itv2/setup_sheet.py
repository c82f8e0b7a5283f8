"""The set-up sheet: what an installer has to enter in which section of a panel so that it dials this server.

Shows no code: where one belongs, it says which setting holds it. Knows nothing of terminals.

Source: itv2-protocol.md section 1.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from sojourn.gateways.itv2.config import PORT
from sojourn.gateways.itv2.sections import INACTIVITY, RESTART, Sections

COLUMNS: Final = ("section", "what", "enter", "remarks")


class Place(msgspec.Struct, frozen=True):
    """Where panels dial: a name of at most 32 characters or an address, and the port."""

    host: str
    port: int = PORT

    @property
    def is_loopback(self) -> bool:
        """Whether only this host itself can dial there."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


class Row(msgspec.Struct, frozen=True):
    """One section: what it is, what to enter, and what to know about it."""

    section: str
    what: str
    enter: str
    remarks: str = ""


def rows_of(sections: Sections, place: Place, *, has_type_1: bool = False) -> Iterator[Row]:
    """Yield the sections of one integration group in the order of their programming.

    Args:
        sections: of the group and the firmware.
        place: where the panel dials.
        has_type_1: the panel is to use Type 1, as firmware 4.1 always does.
    """
    is_old = not sections.type2_code
    yield Row(sections.integration_id, "Integration ID", "read it", "12 digits, for integration_id")
    if has_type_1 or is_old:
        yield Row(sections.type1_code, "Type 1 access code", "as in type1_code", "8 hex digits")
    else:
        yield Row(sections.type2_code, "Type 2 access code", "as in type2_code", "32 hex digits")
    if is_old:
        yield Row(sections.options, "Real-time notification", "--3-----", "option 3 only")
    else:
        enter, remarks = ("--3-5---", "Ethernet, integration on; bit 4 off is Type 1")
        if not has_type_1:
            enter, remarks = ("--345---", "Ethernet, Type 2 encryption, integration on")
        yield Row(sections.options, "Path and encryption options", enter, remarks)
        yield Row(sections.polling, "Polling and notification options", "--3-----", "real time, no polling")
    yield from _place_rows(sections, place)
    if sections.notifications:
        yield Row(sections.notifications, "Notification control", "12345---", "everything is reported")
        yield Row(sections.zones, "Notifications by zone", "12345678", "eight zones each; on by default")
        yield Row(INACTIVITY, "Inactivity timeout", "0078", "120 s, the default")
    yield Row("[382]", "Alternate communicator", "option 5 on", "of the panel, not of the communicator")
    yield Row(RESTART, "Restart the communicator", "", "then it dials")


def _place_rows(sections: Sections, place: Place) -> Iterator[Row]:
    """Yield server address, port and name; address and name must not both be set."""
    numbers = _as_sections_write(place.host)
    if numbers is not None:
        yield Row(sections.server_address, "Server address", numbers, place.host)
        yield Row(sections.server_name, "Server name", "(empty)", "not besides an address")
    else:
        yield Row(sections.server_address, "Server address", "000.000.000.000", "not besides a name")
        yield Row(sections.server_name, "Server name", place.host, "at most 32 characters")
    if sections.server_port:
        yield Row(sections.server_port, "Server port", f"{place.port:04X}", f"hex; {place.port}")


def _as_sections_write(host: str) -> str | None:
    """Return an IPv4 address with three digits each, as keypads take it; None for anything else."""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return None
    return ".".join(f"{one:03}" for one in address.packed)


def markdown(title: str, rows: Sequence[Row]) -> str:
    """Return a sheet to print."""
    lines = [f"# {title}", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {one.section} | {one.what} | `{one.enter}` | {one.remarks} |" for one in rows]
    return "\n".join(line.replace("| `` |", "| |") for line in lines) + "\n"
