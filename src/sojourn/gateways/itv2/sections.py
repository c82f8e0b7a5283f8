"""Where a panel's communicator keeps what concerns an integration server: section numbers by integration group.

Facts for the set-up sheet and for the doctor's sentences; knows nothing of sessions.

Source: itv2-protocol.md section 1.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from sojourn.gateways.itv2.config import PanelSettings

GROUP_STEP: Final = 27
"""How far apart the sections of two groups are; the Type 2 code and the notification control are one apart."""

RESTART: Final = "[851][999], then 55"
INACTIVITY: Final = "[851][711]"
"""After so long a silence the panel drops the connection; 0x78 = 120 s by default."""


class Sections(msgspec.Struct, frozen=True):
    """The sections of one integration group as people write them; empty: the firmware has none."""

    group: int
    integration_id: str
    type1_code: str
    type2_code: str
    options: str
    polling: str
    server_address: str
    server_port: str
    server_name: str
    notifications: str
    zones: str


FIRMWARE_4: Final = Sections(
    group=1,
    integration_id="[851][651]",
    type1_code="[851][652]",
    type2_code="",
    options="[851][664]",
    polling="[851][664]",
    server_address="[851][693]",
    server_port="",
    server_name="[851][697]",
    notifications="",
    zones="",
)


def sections_of(group: int = 1, firmware: str = "5") -> Sections:
    """Return the sections of ``group``, 1 to 4; firmware 4.1 has one group."""
    if firmware == "4.1":
        return FIRMWARE_4
    shift = GROUP_STEP * (group - 1)
    return Sections(
        group=group,
        integration_id="[851][422]",
        type1_code=f"[851][{423 + shift}]",
        type2_code=f"[851][{699 + group}]",
        options=f"[851][{425 + shift}]",
        polling=f"[851][{426 + shift}]",
        server_address=f"[851][{428 + shift}]",
        server_port=f"[851][{429 + shift}]",
        server_name=f"[851][{431 + shift}]",
        notifications=f"[851][{690 + group}]",
        zones=f"[851][{434 + shift}] to [{449 + shift}]",
    )


def sections_of_panel(panel: PanelSettings) -> Sections:
    """Return the sections of the group with which a panel dials this server."""
    return sections_of(panel.integration_group, panel.firmware)
