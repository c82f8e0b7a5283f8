"""The one place that loads gRPC and what the build generated from ``simulator.proto``, and says what to do without it.

Use it as ``from sojourn.gateways.exchange.sim.stubs import aio, pb``.

Raises: ConfigError on import, if the stubs or gRPC are missing or do not fit together.
"""

from __future__ import annotations

import os
from typing import Final

from sojourn.errors import ConfigError, Problem

# Read when the library is loaded. Whatever we fork executes another program at once and calls no gRPC; what the library
# would do at each fork for who goes on is waited for by the whole process.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

try:
    import grpc
    from google.protobuf.runtime_version import VersionError
    from grpc import StatusCode, aio
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    try:
        from sojourn.gateways.exchange.sim.v1 import simulator_pb2 as pb
    except VersionError as error:
        wanted = "a protobuf that is not older than that: pip install --upgrade protobuf"
        raise ConfigError([Problem("sojourn", 0, "exchange", "stubs", str(error), wanted)]) from None
except ImportError as error:
    wanted = (
        "gRPC and the generated stubs: pip install 'sojourn[exchange]'; in a clone, pip install grpcio-tools and then "
        "pip install -e '.[exchange]'"
    )
    raise ConfigError([Problem("sojourn", 0, "exchange", "stubs", str(error), wanted)]) from None

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Simulator"]
"""``sim.v1.Simulator``: the names and types of its methods."""
REPLY_BYTES: Final = 16 * 1024 * 1024
"""Longest message of a simulator: a snapshot of all orders that may rest, with room."""
ERROR_KEY: Final = "sim-error"
EPOCH_KEY: Final = "sim-owner-epoch"
"""Trailing metadata of a refusal; simulator.proto says what stands in it."""

__all__ = [
    "EPOCH_KEY",
    "ERROR_KEY",
    "REPLY_BYTES",
    "SERVICE",
    "StatusCode",
    "aio",
    "grpc",
    "health",
    "health_pb2",
    "health_pb2_grpc",
    "pb",
    "reflection",
]
