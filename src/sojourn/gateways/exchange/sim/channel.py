"""A connection to a simulator: a small interface, and gRPC's own library behind it.

The library is kept in this file, so that another one could do its work. What it does not know on purpose: epochs,
sequences, and when to try again; that is the link's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

from sojourn.core.clock import monotonic
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, LocalProtocolError, SojournError
from sojourn.gateways.exchange.sim.stubs import (
    EPOCH_KEY,
    ERROR_KEY,
    REPLY_BYTES,
    SERVICE,
    StatusCode,
    aio,
    pb,
)

KEEPALIVE_MS: Final = 10_000
READ_AHEAD_BYTES: Final = 65_536

_BUGS: Final = frozenset({StatusCode.INVALID_ARGUMENT, StatusCode.UNIMPLEMENTED, StatusCode.OUT_OF_RANGE})
_WORDS: Final = {
    "draining": "it ends and takes no more orders",
    "token": "it wants another token",
}


class Fenced(SojournError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """Another process owns the simulator by now; ours must let go of the session.

    Args:
        by_epoch: of the new owner, or of the highest that the simulator has seen.
    """

    def __init__(self, by_epoch: int) -> None:
        super().__init__(f"fenced: an owner of epoch {by_epoch} came")
        self.by_epoch = by_epoch


class Foreign(BackendUnavailable):
    """Another simulator answers than the one that is meant, or another session's; no other try changes that."""


class SimulatorChannel(Protocol):
    """A connection to one simulator; made anew after each loss.

    All methods raise BackendUnavailable if it does not answer, Foreign if it is another one, Fenced if it has another
    owner, and LocalProtocolError if it says that what we ask is against the rules. A call that is left for whatever
    reason is canceled.
    """

    def attach(self, request: pb.AttachRequest) -> AbstractAsyncContextManager[AsyncIterator[pb.Update]]:
        """Read what happens, for the length of a block; the iterator ends when the simulator has ended the stream."""

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask for one answer, by the method's name in the ``.proto`` file."""

    async def close(self) -> None:
        """Close the connection and with it every call; what calls still wait get BackendUnavailable."""


Connect = Callable[[str, Secret], SimulatorChannel]
"""Make a channel from a gRPC target and a token, which may be empty; does not wait for the connection."""


class GrpcioChannel:
    """gRPC's own library, one HTTP/2 connection of its own for each channel.

    Args:
        endpoint: a gRPC target.
        token: that the simulator wants.
    """

    def __init__(self, endpoint: str, token: Secret) -> None:
        self.endpoint = endpoint
        self._metadata = (("authorization", f"Bearer {token.reveal()}"),) if token else ()
        self._channel = aio.insecure_channel(
            endpoint,
            options=[
                ("grpc.max_receive_message_length", REPLY_BYTES),
                ("grpc.enable_retries", 0),
                # A link tries again by itself, on a connection that shares neither state nor delays with the one
                # before.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", 0),
                # Little is read ahead: what waits in buffers is prices that are stale by the time that they are read.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", READ_AHEAD_BYTES),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
            ],
        )
        self._methods: dict[str, Any] = {}
        for method in SERVICE.methods:
            kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
            self._methods[method.name] = kind(
                f"/{SERVICE.full_name}/{method.name}",
                request_serializer=getattr(pb, method.input_type.name).SerializeToString,
                response_deserializer=getattr(pb, method.output_type.name).FromString,
            )

    @asynccontextmanager
    async def attach(self, request: pb.AttachRequest) -> AsyncIterator[AsyncIterator[pb.Update]]:
        """Read what happens."""
        call = self._start("Attach", request, None)
        try:
            yield _Updates(self, call)
        finally:
            call.cancel()  # explicitly, whatever happened: grpc#43462, grpc#43360

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask for one answer."""
        began = monotonic()
        call = self._start(method, request, timeout_s)
        try:
            return await call
        except aio.AioRpcError as error:
            raise self.error(error, monotonic() - began) from None
        except asyncio.CancelledError:
            raise self.end() from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    def _start(self, method: str, request: Any, timeout_s: float | None) -> Any:
        try:
            return self._methods[method](request, metadata=self._metadata, timeout=timeout_s)
        except aio.UsageError:
            raise BackendUnavailable(self.endpoint, 0.0, "the connection was closed") from None

    def end(self) -> BaseException:
        """Tell a canceled call, which is our connection's end, from a canceled task, which must end."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return asyncio.CancelledError()
        return BackendUnavailable(self.endpoint, 0.0, "the connection was closed")

    def error(self, error: aio.AioRpcError, after_s: float) -> SojournError:
        """Say in our words how a call has failed."""
        metadata = {key: str(value) for key, value in error.trailing_metadata() or ()}
        word = metadata.get(ERROR_KEY, "")
        code = error.code()
        if word == "fenced":
            return Fenced(int(metadata.get(EPOCH_KEY, "0")))
        if word == "foreign":
            return Foreign(self.endpoint, after_s, "another simulator, or another session's, answers there")
        if code in _BUGS:
            return LocalProtocolError(str(error.details()), "a call by the rules", "simulator.proto")
        # gRPC's own words stay out: they are long, and name addresses and library files.
        return BackendUnavailable(
            self.endpoint, after_s, _WORDS.get(word) or code.name.lower().replace("_", " ")
        )


class _Updates(AsyncIterator[pb.Update]):
    """The updates of one stream; no generator, which could outlive its call."""

    def __init__(self, channel: GrpcioChannel, call: Any) -> None:
        self._channel = channel
        self._call = call

    async def __anext__(self) -> pb.Update:
        try:
            update: pb.Update | Any = await self._call.read()
        except aio.AioRpcError as error:
            raise self._channel.error(error, 0.0) from None
        except asyncio.CancelledError:
            raise self._channel.end() from None
        if update is aio.EOF:
            raise StopAsyncIteration
        return update
