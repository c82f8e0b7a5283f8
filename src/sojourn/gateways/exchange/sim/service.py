"""SimulatorService: a desk over gRPC. One stream per owner, and an end when nobody owns it any more.

Nothing is queued here: a stream holds a cursor, and reads the next update when the one before has been taken. So a slow
reader gets prices conflated and every event, and the memory that it costs does not grow.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.market.prices import Replay
from sojourn.gateways.exchange.market.simulation import Simulation
from sojourn.gateways.exchange.sim.desk import Cursor, Desk, RefusalCode, Refused
from sojourn.gateways.exchange.sim.settings import ServiceSettings
from sojourn.gateways.exchange.sim.stubs import (
    EPOCH_KEY,
    ERROR_KEY,
    REPLY_BYTES,
    SERVICE,
    StatusCode,
    aio,
    grpc,
    health,
    health_pb2,
    health_pb2_grpc,
    pb,
    reflection,
)

_CODES: Final[dict[RefusalCode, StatusCode]] = {
    "fenced": StatusCode.FAILED_PRECONDITION,
    "foreign": StatusCode.NOT_FOUND,
    "draining": StatusCode.UNAVAILABLE,
    "malformed": StatusCode.INVALID_ARGUMENT,
}

Context = aio.ServicerContext[Any, Any]


class _Stream:
    """One reader, as long as its call lasts."""

    def __init__(self, epoch: int, cursor: Cursor) -> None:
        self.epoch = epoch
        self.cursor = cursor
        self.is_replaced = False
        self.has_news = asyncio.Event()


class SimulatorService:
    """A simulator that can be reached.

    Life: made for :meth:`run`, once; ends when it is stopped or drained, or its owner has been silent for too long.

    Args:
        settings: of the process.
        replay: prices that the market follows, by symbol.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        replay: dict[str, Replay] | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.settings = settings
        self.desk = Desk(
            Simulation(settings.market, replay),
            simulator=settings.simulator,
            session=settings.session,
            clock=clock,
            speed=settings.speed,
        )
        self.address = ""
        """A gRPC target; empty until it listens."""
        self.ended_because = ""
        self._stream: _Stream | None = None
        self._streams: set[_Stream] = set()
        self._stopping = asyncio.Event()
        self._health = health.aio.HealthServicer()

    async def run(self, on_ready: Callable[[str], None] = lambda _: None) -> None:
        """Serve until the end; tell the address when it can be reached.

        Raises: ConfigError if the address cannot be listened at.
        """
        server = await self._server()
        listen = self.settings.listen
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError:
            raise ConfigError(
                [Problem("simulator", 0, "", "listen", repr(listen), "an address that is free here")]
            ) from None
        self.address = listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
        try:
            await server.start()
            on_ready(self.address)
            await self._let_time_pass()
        finally:
            self.desk.is_draining = True
            self._tell()
            await self._health.enter_graceful_shutdown()
            await server.stop(self.settings.drain_timeout_s)

    def stop(self, because: str = "stopped") -> None:
        """Take no more orders, tell what has happened, end."""
        self.ended_because = self.ended_because or because
        self.desk.is_draining = True
        self._stopping.set()

    @property
    def is_attached(self) -> bool:
        """Somebody reads."""
        return self._stream is not None

    async def _let_time_pass(self) -> None:
        desk, timeout_s = self.desk, self.settings.owner_timeout_s
        while not self._stopping.is_set():
            desk.advance()
            self._tell()
            left_s = desk.next_step_s
            if timeout_s:
                alone_s = timeout_s - desk.silent_s
                if alone_s <= 0:
                    self.stop(f"no owner for {timeout_s:g} s")
                    return
                left_s = alone_s if left_s is None else min(left_s, alone_s)
            try:
                async with asyncio.timeout(left_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _tell(self) -> None:
        for stream in self._streams:
            stream.has_news.set()

    # gRPC

    async def _server(self) -> aio.Server:
        settings = self.settings
        keepalive_ms = int(settings.keepalive_s * 1000)
        server = aio.server(
            maximum_concurrent_rpcs=settings.calls_count,
            options=[
                ("grpc.max_receive_message_length", settings.request_bytes),
                ("grpc.max_send_message_length", REPLY_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", keepalive_ms),
                ("grpc.keepalive_timeout_ms", keepalive_ms),
                ("grpc.keepalive_permit_without_calls", 1),
                # A link asks as often as we do; by default the second ping within five minutes ends a connection.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", keepalive_ms // 2),
                ("grpc.http2.max_pings_without_data", 0),
            ],
        )
        desk = self.desk
        calls: dict[str, Callable[[Any], Any]] = {
            "SubmitOrder": desk.submit,
            "CancelOrder": desk.cancel,
            "ReplaceOrder": desk.replace,
            "ListOrders": desk.list_orders,
            "Heartbeat": desk.beat,
            "Drain": self._drain,
            "Status": lambda _: desk.report(is_attached=self.is_attached),
        }
        handlers = {}
        for method in SERVICE.methods:
            decode = getattr(pb, method.input_type.name).FromString
            encode = getattr(pb, method.output_type.name).SerializeToString
            if method.server_streaming:
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(self._attach, decode, encode)
            else:
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                    self._answering(calls[method.name]), decode, encode
                )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        await self._health.set(SERVICE.full_name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server

    def _answering(self, act: Callable[[Any], Any]) -> Callable[[Any, Context], Awaitable[Any]]:
        """Make a handler of a call with one answer."""

        async def answer(request: Any, context: Context) -> Any:
            await self._check_token(context)
            try:
                reply = act(request)
            except Refused as refused:
                await self._refuse(context, refused)
            self._tell()
            return reply

        return answer

    async def _attach(self, request: pb.AttachRequest, context: Context) -> None:
        """Tell an owner what happens, until it goes, another comes, or the simulator ends."""
        await self._check_token(context)
        try:
            cursor = self.desk.attach(request)
        except Refused as refused:
            await self._refuse(context, refused)
        stream = _Stream(request.owner.epoch, cursor)
        if self._stream is not None:
            self._stream.is_replaced = True
            self._stream.has_news.set()
        self._stream = stream
        self._streams.add(stream)
        try:
            await self._feed(stream, context)
        finally:
            self._streams.discard(stream)
            if self._stream is stream:
                self._stream = None

    async def _feed(self, stream: _Stream, context: Context) -> None:
        desk = self.desk
        while True:
            stream.has_news.clear()
            if stream.epoch < desk.owner_epoch:
                await self._refuse(
                    context, Refused("fenced", f"another owner came: epoch {desk.owner_epoch}")
                )
            if stream.is_replaced:
                await context.abort(StatusCode.ABORTED, "another stream of the same owner came")
            update = desk.update(stream.cursor)
            if update is not None:
                await context.write(update)
            elif desk.is_draining:
                await context.write(
                    pb.Update(
                        seq=stream.cursor.seq or 0,
                        revision=desk.simulation.revision,
                        time_ms=desk.simulation.time_ms,
                        is_last=True,
                    )
                )
                return
            else:
                await stream.has_news.wait()

    def _drain(self, request: pb.DrainRequest) -> pb.DrainReply:
        reply = self.desk.drain(request)
        self.stop("drained")
        return reply

    async def _check_token(self, context: Context) -> None:
        token = self.settings.token
        if not token:
            return
        given = next(
            (value for key, value in context.invocation_metadata() or () if key == "authorization"), ""
        )
        if not hmac.compare_digest(str(given).encode(), f"Bearer {token.reveal()}".encode()):
            await context.abort(StatusCode.UNAUTHENTICATED, "wrong token", ((ERROR_KEY, "token"),))

    async def _refuse(self, context: Context, refused: Refused) -> None:
        metadata = ((ERROR_KEY, refused.code), (EPOCH_KEY, str(self.desk.owner_epoch)))
        await context.abort(_CODES[refused.code], refused.why, metadata)
