"""Settings of the driver ``process``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sojourn.core.settings import Seconds, Settings


class ProcessSettings(Settings, frozen=True):
    """Simulators as child processes."""

    directory: Annotated[
        str,
        Meta(
            description="Of their sockets; for us alone. Empty = one under the system's temporary directory."
        ),
    ] = ""
    listen: Annotated[
        Literal["unix", "tcp"], Meta(description="A Unix socket, or a free port of 127.0.0.1.")
    ] = "unix"
    dies_with_parent: Annotated[
        bool,
        Meta(
            description="They end with the daemon; false = they go on, and the next daemon takes them over "
            "within simulators.owner_timeout_s."
        ),
    ] = False
    simulators_count: Annotated[int, Meta(ge=1, le=10_000, description="At the same time.")] = 100
    start_timeout_s: Annotated[Seconds, Meta(description="From its start until it can be reached.")] = 20.0
    end_timeout_s: Annotated[
        Seconds, Meta(description="For all to end when the daemon stops; then they are killed.")
    ] = 3.0
    memory_bytes: Annotated[
        int, Meta(ge=0, description="Address space of each (RLIMIT_AS); 0 = no limit.")
    ] = 1024**3
    cpu_s: Annotated[
        int, Meta(ge=0, description="Processor time of each, over its whole life (RLIMIT_CPU); 0 = no limit.")
    ] = 0
    files_count: Annotated[int, Meta(ge=32, description="Open files of each (RLIMIT_NOFILE).")] = 256
    log_bytes: Annotated[int, Meta(ge=1024, description="What each may write to its log (RLIMIT_FSIZE).")] = (
        65_536
    )
    replay_directory: Annotated[
        str, Meta(description="Where market.replay_file may be; empty = no market follows a file.")
    ] = ""
