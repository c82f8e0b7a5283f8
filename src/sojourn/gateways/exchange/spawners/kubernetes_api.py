"""PodApi: the six requests about Pods that the driver makes, and how long it tries.

Configuration, TLS and credentials are lightkube's: kubeconfig, service account with its rotating token, exec plugins.
The requests are made here, over the HTTP client that lightkube sets up, because its own ones cannot be told what this
driver lives on: its ``watch`` asks for no bookmarks and never times out, its ``delete`` sends no preconditions, and its
answers hide the headers ``Date`` and ``Retry-After``. One unreadable field would cost a whole list there.

An answer that the driver reckons with (no such Pod, conflict, too old a version) is a value. Everything else that is
not a success is :class:`~sojourn.errors.BackendUnavailable`. Knows nothing of simulators.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as _random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, TypeVar

import httpx2
import msgspec
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeConfigError
from lightkube.models.core_v1 import Pod

from sojourn.core.backoff import Backoff
from sojourn.core.breaker import Breakers
from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded, Problem
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings
from sojourn.gateways.exchange.spawners.kubernetes_pods import PodSeen

BACKEND: Final = "kubernetes"
OK: Final = 200
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
GONE: Final = 410
TOO_MANY: Final = 429
SERVER_ERRORS: Final = 500
LINE_BYTES: Final = 4 * 1024 * 1024
"""Longest line of a watch: etcd keeps no object of more than 1.5 MiB."""

T = TypeVar("T")
_MERGE_PATCH: Final = "application/merge-patch+json"


class PodList(NamedTuple):
    """All Pods at one version; ``server_time`` is the API server's own clock."""

    pods: list[PodSeen]
    version: str
    server_time: datetime


class Change(NamedTuple):
    """One event of a watch: ADDED, MODIFIED, DELETED, or BOOKMARK, which has no Pod and only moves the version."""

    type: str
    pod: PodSeen | None
    version: str


class TooOld(NamedTuple):
    """The version that was asked for is forgotten: everything is to be listed anew."""

    why: str


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[PodSeen] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta


class _Refusal(msgspec.Struct):
    message: str | None = ""
    reason: str | None = ""
    code: int = 0


class PodApi:
    """The Pods of one namespace.

    Life: the spawner makes it, opens it and closes it.

    Args:
        settings: of the driver.
        breakers: the circuits; the API server is one endpoint.
        random: a number in [0, 1) for the pauses.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        clock: Clock = monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.settings = settings
        self.breakers = Breakers(settings.breaker, clock)
        self._random = random
        self._client: httpx2.AsyncClient | None = None
        self.namespace = settings.namespace
        self._path = ""

    def open(self) -> None:
        """Read the configuration; no request is made yet.

        Raises: ConfigError if there is none, or one that cannot be used.
        """
        config = _configuration(self.settings)
        self.namespace = self.settings.namespace or config.namespace
        self._path = f"/api/v1/namespaces/{self.namespace}/pods"
        try:
            self._client = AsyncClient(
                config, ConnectionParams(timeout=httpx2.Timeout(self.settings.request_timeout_s))
            )
        except (OSError, ValueError, LightkubeConfigError, AssertionError) as error:
            raise _config_error("kubeconfig_file", str(error) or "no user in it") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def backoff(self) -> Backoff:
        """Return the pauses between tries, as configured."""
        return Backoff(self.settings.retry_s, self.settings.retry_max_s, self._random)

    async def list(self, selector: str) -> PodList:
        """Return all Pods with these labels.

        Raises: BackendUnavailable.
        """
        for _ in range(self.settings.attempts_count):
            pods: list[PodSeen] = []
            page = _Page(_ListMeta())
            while True:
                parameters: dict[str, str | int] = {
                    "labelSelector": selector,
                    "limit": self.settings.list_chunk_count,
                }
                if page.metadata.continue_:
                    parameters["continue"] = page.metadata.continue_
                answer = await self._ask("GET", self._path, parameters, fine=(GONE,))
                if answer.status_code == GONE:
                    break  # the server has forgotten the version of the pages before
                page = _decoded(answer.content, _Page)
                pods += page.items or ()
                if not page.metadata.continue_:
                    return PodList(pods, page.metadata.resource_version, _server_time(answer))
        raise BackendUnavailable(BACKEND, 0.0, "it forgets a list while it is being read")

    async def watch(self, selector: str, version: str, within_s: float) -> AsyncGenerator[Change | TooOld]:
        """Yield what changes after a version, until the server ends it; the last one may be TooOld.

        Raises: BackendUnavailable if it breaks; TimeoutError if it has told nothing for too long.
        """
        parameters: dict[str, str | int] = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": max(1, int(within_s)),
        }
        client = self._opened
        timeout = httpx2.Timeout(self.settings.request_timeout_s, read=self.settings.watch_silence_s)
        request = client.build_request("GET", self._path, params=parameters, timeout=timeout)
        answer: httpx2.Response | None = None
        try:
            with self.breakers.guard(BACKEND) as call, _named_failures():
                answer = await client.send(request, stream=True)
                if answer.status_code >= SERVER_ERRORS:
                    call.failed()
            if answer.status_code == GONE:
                yield TooOld("the watch began too late")
                return
            if answer.status_code != OK:
                await answer.aread()
                raise self._refused("watch", answer)
            async for line in _lines(answer):
                change = _change(line)
                yield change
                if isinstance(change, TooOld):
                    return
        except httpx2.TimeoutException:
            raise TimeoutError(f"the watch told nothing for {self.settings.watch_silence_s:g} s") from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise BackendUnavailable(BACKEND, 0.0, f"the watch broke ({type(error).__name__})") from None
        finally:
            if answer is not None:
                await answer.aclose()

    async def create(self, pod: Pod) -> PodSeen | None:
        """Make a Pod; None if one of that name exists.

        Raises: BackendUnavailable; LimitExceeded if the namespace's quota is used up.
        """
        answer = await self._ask("POST", self._path, body=pod, fine=(CONFLICT,))
        return None if answer.status_code == CONFLICT else _decoded(answer.content, PodSeen)

    async def get(self, name: str) -> PodSeen | None:
        """Return a Pod; None if there is none. Raises: BackendUnavailable."""
        answer = await self._ask("GET", f"{self._path}/{name}", fine=(NOT_FOUND,))
        return None if answer.status_code == NOT_FOUND else _decoded(answer.content, PodSeen)

    async def patch(
        self,
        pod: PodSeen,
        *,
        labels: dict[str, str | None] | None = None,
        annotations: dict[str, str | None] | None = None,
    ) -> PodSeen | None:
        """Change labels and annotations if nobody has written to the Pod since it was seen: compare and swap.

        Args:
            labels: a value of None removes one.
        Returns: the Pod as it is now; None if it is gone, is another one of the name, or was written to.
        Raises: BackendUnavailable.
        """
        metadata: dict[str, Any] = {"resourceVersion": pod.metadata.resource_version}
        if labels:
            metadata["labels"] = labels
        if annotations:
            metadata["annotations"] = annotations
        answer = await self._ask(
            "PATCH",
            f"{self._path}/{pod.name}",
            body={"metadata": metadata},
            content_type=_MERGE_PATCH,
            fine=(NOT_FOUND, CONFLICT),
        )
        return _decoded(answer.content, PodSeen) if answer.status_code == OK else None

    async def delete(self, pod: PodSeen, grace_s: int, *, is_exact: bool = False) -> bool:
        """Ask the node to end the very Pod that was seen, and return at once; a grace of 0 removes it unasked.

        Args:
            is_exact: only if nobody has written to it since it was seen.
        Returns: whether it is being deleted or gone; False if it is another Pod or was written to.
        Raises: BackendUnavailable.
        """
        preconditions = {"uid": pod.metadata.uid}
        if is_exact:
            preconditions["resourceVersion"] = pod.metadata.resource_version
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": grace_s,
            "preconditions": preconditions,
        }
        answer = await self._ask("DELETE", f"{self._path}/{pod.name}", body=body, fine=(NOT_FOUND, CONFLICT))
        return answer.status_code != CONFLICT

    @property
    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            raise BackendUnavailable(BACKEND, 0.0, "it is not opened")
        return self._client

    async def _ask(
        self,
        method: str,
        path: str,
        parameters: dict[str, str | int] | None = None,
        *,
        body: Any = None,
        content_type: str = "application/json",
        fine: tuple[int, ...] = (),
    ) -> httpx2.Response:
        """Make one request, again where the server was too busy or the way to it broke.

        Every request here may be made twice: names, versions and uids say what is meant.
        """
        settings, client = self.settings, self._opened
        backoff = self.backoff()
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": content_type}
        attempt = 0
        while True:
            attempt += 1
            is_last = attempt >= settings.attempts_count
            pause_s = next(backoff)
            try:
                with self.breakers.guard(BACKEND) as call, _named_failures():
                    answer = await client.request(
                        method, path, params=parameters, content=content, headers=headers
                    )
                    if answer.status_code >= SERVER_ERRORS:
                        call.failed()
            except BackendUnavailable:
                if is_last:
                    raise
            else:
                status = answer.status_code
                if status in fine or OK <= status < 300:  # noqa: PLR2004 - the class of successes
                    return answer
                asked_s = _retry_after_s(answer)
                can_wait = asked_s is None or asked_s <= settings.retry_max_s
                if is_last or not can_wait or (status != TOO_MANY and status < SERVER_ERRORS):
                    raise self._refused(method, answer)
                pause_s = max(pause_s, asked_s or 0.0)
            await asyncio.sleep(pause_s)

    def _refused(self, verb: str, answer: httpx2.Response) -> BackendUnavailable | LimitExceeded:
        """Return the error for an answer that is no success, in words for the operator."""
        try:
            refusal = msgspec.json.decode(answer.content, type=_Refusal)
        except msgspec.MsgspecError:
            refusal = _Refusal()
        status, message = answer.status_code, (refusal.message or "")[:300]
        if status == FORBIDDEN and "exceeded quota" in message:
            return LimitExceeded(f"quota of the namespace {self.namespace}", 1, 0)
        if status == UNAUTHORIZED:
            cause = "it does not know us: the token or certificate is wrong or too old (401)"
        elif status == FORBIDDEN:
            cause = f"we may not {verb} Pods in {self.namespace}; see the Role in deploy/ (403: {message})"
        elif status == TOO_MANY:
            asked_s = _retry_after_s(answer)
            again = f", and asks to come again in {asked_s:g} s" if asked_s is not None else ""
            cause = f"it is too busy{again} (429)"
        else:
            cause = f"it answered {status}: {message}" if message else f"it answered {status}"
        return BackendUnavailable(BACKEND, 0.0, cause)


def _configuration(settings: KubernetesSettings) -> SingleConfig:
    """Read the kubeconfig or the service account.

    Raises: ConfigError.
    """
    key = "kubeconfig_file"
    try:
        if settings.kubeconfig_file:
            config = KubeConfig.from_file(settings.kubeconfig_file).get(settings.context or None)
        else:
            config = KubeConfig.from_service_account(settings.account_directory).get()
    except KeyError as error:
        # The environment lacks the server's address, or the context names what is not there.
        raise _config_error(key, f"without {error.args[0]!r}") from None
    except (OSError, ValueError, TypeError, LightkubeConfigError) as error:
        raise _config_error(key, str(error)) from None
    # Which errors its YAML reader has, is lightkube's business; they all end here.
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise _config_error(key, "not YAML") from None
        raise
    if config is None:
        raise _config_error(key, "no context in it")
    return config


def _config_error(key: str, found: str) -> ConfigError:
    wanted = "a kubeconfig that can be used, or a Pod with a service account"
    return ConfigError([Problem("", 0, "exchange.kubernetes", key, found, wanted)])


@contextlib.contextmanager
def _named_failures() -> Iterator[None]:
    """Turn what the HTTP client raises into what the circuit counts; its words may hold addresses, not secrets."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise BackendUnavailable(BACKEND, 0.0, f"no answer in time ({type(error).__name__})") from None
    except httpx2.HTTPError as error:
        raise BackendUnavailable(BACKEND, 0.0, f"{type(error).__name__}: {error}") from None
    # A token's file that is gone; an exec plugin that fails or says something else than a token.
    except (LightkubeConfigError, OSError, ValueError, LookupError, TypeError) as error:
        raise BackendUnavailable(BACKEND, 0.0, f"no credentials: {type(error).__name__}") from None


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise BackendUnavailable(BACKEND, 0.0, f"its answer cannot be read: {error}") from None


def _change(line: bytes) -> Change | TooOld:
    """Read one line of a watch."""
    event = _decoded(line, _Event)
    if event.type == "ERROR":
        refusal = _decoded(bytes(event.object), _Refusal)
        if refusal.code == GONE:
            return TooOld(refusal.reason or "Expired")
        raise BackendUnavailable(BACKEND, 0.0, f"the watch broke: {refusal.reason or refusal.code}")
    if event.type == "BOOKMARK":
        bookmark = _decoded(bytes(event.object), _Bookmark)
        return Change(event.type, None, bookmark.metadata.resource_version)
    pod = _decoded(bytes(event.object), PodSeen)
    return Change(event.type, pod, pod.metadata.resource_version)


async def _lines(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Cut a stream into lines, none longer than may be."""
    unread = bytearray()
    async for chunk in answer.aiter_bytes():
        unread += chunk
        *lines, rest = unread.split(b"\n")
        for line in lines:
            if line:
                yield bytes(line)
        unread = bytearray(rest)
        if len(unread) > LINE_BYTES:
            raise BackendUnavailable(BACKEND, 0.0, f"a line of the watch is longer than {LINE_BYTES} bytes")


def _retry_after_s(answer: httpx2.Response) -> float | None:
    """Return how long the server asks to wait; None if it does not say, or not in seconds."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _server_time(answer: httpx2.Response) -> datetime:
    """Return the server's clock; ours where it does not say."""
    with contextlib.suppress(ValueError, TypeError):
        return parsedate_to_datetime(answer.headers.get("Date", "")).astimezone(UTC)
    return datetime.now(UTC)
