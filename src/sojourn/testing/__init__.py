"""For authors of gateways: play a conversation, move the clock, break the network, try the laws of codecs.

Nothing here is loaded by a server. ``sojourn.testing.laws`` needs the package ``hypothesis``.
"""

from __future__ import annotations

from sojourn.testing.capture import CaptureLine, CaptureWriter, read_capture, replay
from sojourn.testing.clock import ManualClock, drive
from sojourn.testing.fault_proxy import FaultProxy, Faults, Script
from sojourn.testing.memory import MemoryListener, MemoryTransport, connect, dial, memory_pair
from sojourn.testing.playbook import Playbook, playbook

__all__ = [
    "CaptureLine",
    "CaptureWriter",
    "FaultProxy",
    "Faults",
    "ManualClock",
    "MemoryListener",
    "MemoryTransport",
    "Playbook",
    "Script",
    "connect",
    "dial",
    "drive",
    "memory_pair",
    "playbook",
    "read_capture",
    "replay",
]
