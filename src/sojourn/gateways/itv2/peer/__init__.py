"""The other end of ITv2: a simulated DSC PowerSeries Neo panel, for ``sojourn simulate panel``, demos and tests.

Written from the specification, apart from the server's half: of the gateway it shares ``messages`` and nothing else, so
that the two can disagree.

Shape: ``wire``, ``kinds``, ``layouts`` and ``ciphers`` are its bytes; ``zones`` and ``panel`` the life of its house,
``programme`` how it is programmed, ``desk`` what it answers; ``line`` is one connection, ``outbox`` what waits for one,
``faults`` what can go wrong; ``simulated`` puts them on a socket; ``orders`` and ``script`` tell it what to do.
"""

from sojourn.gateways.itv2.peer.faults import ALWAYS, Fault
from sojourn.gateways.itv2.peer.line import Step, Told
from sojourn.gateways.itv2.peer.programme import (
    LineSettings,
    PanelIdentity,
    PanelProgramme,
    UserProgramme,
    ZoneProgramme,
    house,
)
from sojourn.gateways.itv2.peer.simulated import SimulatedPanel

__all__ = [
    "ALWAYS",
    "Fault",
    "LineSettings",
    "PanelIdentity",
    "PanelProgramme",
    "SimulatedPanel",
    "Step",
    "Told",
    "UserProgramme",
    "ZoneProgramme",
    "house",
]
