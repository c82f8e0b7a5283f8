"""The part of the Kubernetes API that is about Pods, in this process over aiohttp, with faults on demand.

Kept to what a real server does (checked against one by tests/kubernetes/): one version for all writes, optimistic
concurrency by resourceVersion and uid, lists in pages that a compaction makes stale (410), watches from a version on
with bookmarks, label selectors that make an object appear and disappear, deletion with grace that ends with the node's
word, quota, and tokens that may only do what their role says. Nothing here starts a Pod: hollow_kubelet.py does, over
the same API.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import itertools
import json
import re
import ssl
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from aiohttp import web

ADMIN = "admin-token"
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?\Z")
ALL_VERBS = frozenset({"create", "get", "list", "watch", "patch", "delete", "bind", "status"})
DRIVER_VERBS = frozenset({"create", "get", "list", "watch", "patch", "delete"})

Document = dict[str, Any]


@dataclass
class Fault:
    """What happens to the next requests of a kind instead of, or after, what they ask for.

    Shape: ``is_done`` carries the request out and only spoils the answer; a status of 0 cuts the connection, and -1
    never answers.
    """

    verb: str
    status: int
    times: int = 1
    retry_after_s: int | None = None
    is_done: bool = False
    reason: str = "InternalError"
    message: str = "told to"


@dataclass(eq=False)
class Watch:
    """One client that watches."""

    selector: str
    queue: asyncio.Queue[tuple[str, Document] | None] = field(default_factory=asyncio.Queue)


@dataclass(frozen=True)
class Written:
    """One entry of the history; ``before`` is what it replaced."""

    version: int
    before: Document | None
    after: Document | None


class KubernetesStub:
    """An API server for one namespace.

    Life: ``async with KubernetesStub() as stub``; everything is gone at the end. What a test does to it goes through
    the methods below, what the driver does through HTTP.
    """

    def __init__(self, namespace: str = "exchange", tls: ssl.SSLContext | None = None) -> None:
        self.namespace = namespace
        self.roles: dict[str, frozenset[str]] = {ADMIN: ALL_VERBS, "driver-token": DRIVER_VERBS}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.quota_count: int | None = None
        self.bookmark_s: float | None = None
        self.is_silent = False
        self.is_brief = False
        """Watches end as soon as they have begun."""
        self.url = ""
        self._tls = tls
        self._pods: dict[str, Document] = {}
        self._history: list[Written] = []
        self._compacted = 0
        self._snapshots: dict[int, list[Document]] = {}
        self._versions = itertools.count(1001)
        self._version = 1000
        self._watches: set[Watch] = set()
        self._answers: set[web.Request] = set()
        self._moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application()
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        app.router.add_get(pods, self._list_or_watch)
        app.router.add_post(pods, self._create)
        app.router.add_get(pods + "/{name}", self._get)
        app.router.add_patch(pods + "/{name}", self._patch)
        app.router.add_delete(pods + "/{name}", self._delete)
        app.router.add_post(pods + "/{name}/binding", self._bind)
        app.router.add_patch(pods + "/{name}/status", self._patch_status)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        await self.start_listening(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop_watches()
        await self._runner.cleanup()

    # What a test may do

    async def start_listening(self, port: int | None = None) -> None:
        """Answer; after :meth:`stop_listening` at the same address as before."""
        port = self._port if port is None else port
        self._site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self._tls, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def stop_listening(self) -> None:
        """Be down: no new connection, and every open one is cut."""
        await self._site.stop()
        self.cut_connections()

    def cut_connections(self) -> None:
        """Break every connection in the middle of whatever it carries."""
        server = self._runner.server
        for connection in list(server.connections) if server else ():
            if connection.transport is not None:
                connection.transport.abort()

    def kubeconfig(self, folder: Path, token: str = "driver-token", server: str = "") -> str:
        """Write a kubeconfig for one token, and return its path."""
        cluster: Document = {"server": server or self.url}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": self.namespace}}
            ],
        }
        path = folder / f"kubeconfig-{token}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return str(path)

    def fault(self, verb: str, status: int, times: int = 1, **more: Any) -> None:
        """Spoil the next requests of a verb."""
        self.faults.append(Fault(verb, status, times, **more))

    def compact(self) -> None:
        """Forget the history, as etcd does every five minutes: older versions are gone (410)."""
        self._compacted = self._version
        self._history.clear()
        self._snapshots.clear()

    def drop_watches(self) -> None:
        """End every watch, as a server does that restarts."""
        for watch in list(self._watches):
            watch.queue.put_nowait(None)

    def expire_watches(self) -> None:
        """Tell every watch that its version is too old, in the stream, and end it."""
        self.compact()
        status = failure(410, "Expired", "too old resource version")
        for watch in list(self._watches):
            watch.queue.put_nowait(("ERROR", status))
            watch.queue.put_nowait(None)

    def send_bookmarks(self) -> None:
        """Tell every watch how far the server is."""
        bookmark = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(self._version), "creationTimestamp": None},
        }
        for watch in self._watches:
            watch.queue.put_nowait(("BOOKMARK", bookmark))

    @property
    def pods(self) -> dict[str, Document]:
        """All Pods by name; to be looked at."""
        return self._pods

    @property
    def version(self) -> int:
        """The last write's."""
        return self._version

    def count(self, verb: str) -> int:
        """Return how many requests of a verb there were."""
        return self.requests.count(verb)

    def put(self, pod: Document) -> Document:
        """Place a Pod, or change one, past all rules: as another client would."""
        name = pod["metadata"]["name"]
        return self._write(self._pods.get(name), copy.deepcopy(pod))

    def remove(self, name: str) -> None:
        """Take a Pod away, without its node's word."""
        self._write(self._pods[name], None)

    def lose(self, name: str) -> None:
        """Take a Pod away so that no watch learns of it: the bug that relisting is for."""
        del self._pods[name]

    async def until(self, holds: Any) -> None:
        """Wait until something is so; it is looked at after each write and request."""
        while not holds():
            self._moved.clear()
            await self._moved.wait()

    # HTTP

    async def _enter(self, request: web.Request, verb: str) -> tuple[Fault | None, web.StreamResponse | None]:
        """Note the request; return the fault that befalls it, and the answer if that is all."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == ADMIN:
            return None, None  # the node and the test itself: not counted, and never in trouble
        self.requests.append(verb)
        self._moved.set()
        if token not in self.roles:
            return None, answer(failure(401, "Unauthorized", "Unauthorized"))
        if verb not in self.roles[token]:
            words = (
                f'pods is forbidden: User "{token}" cannot {verb} resource "pods" in API group "" in the '
                f'namespace "{self.namespace}"'
            )
            return None, answer(failure(403, "Forbidden", words))
        fault = next((one for one in self.faults if one.verb in (verb, "*") and one.times > 0), None)
        if fault is None:
            return None, None
        fault.times -= 1
        return (fault, None) if fault.is_done else (None, await self._spoil(request, fault))

    async def _spoil(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.status == -1:
            await asyncio.Event().wait()
        if fault.status == 0:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
        return answer(failure(fault.status, fault.reason, fault.message), headers)

    async def _leave(
        self, request: web.Request, fault: Fault | None, document: Document, status: int = 200
    ) -> web.StreamResponse:
        return await self._spoil(request, fault) if fault else answer(document, status=status)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        fault, done = await self._enter(request, "create")
        if done is not None:
            return done
        pod = await request.json()
        metadata = pod["metadata"]
        wrong = invalid(pod)
        if wrong:
            return answer(failure(422, "Invalid", wrong))
        if metadata["name"] in self._pods:
            return answer(failure(409, "AlreadyExists", f'pods "{metadata["name"]}" already exists'))
        if self.quota_count is not None and len(self._pods) >= self.quota_count:
            words = f'pods "{metadata["name"]}" is forbidden: exceeded quota: pods, requested: pods=1'
            return answer(failure(403, "Forbidden", words))
        metadata |= {
            "namespace": self.namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now_text(),
        }
        pod["status"] = {"phase": "Pending", "qosClass": "Burstable"}
        return await self._leave(request, fault, self._write(None, pod), 201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        fault, done = await self._enter(request, "get")
        if done is not None:
            return done
        pod = self._pods.get(request.match_info["name"])
        if pod is None:
            return not_found(request)
        return await self._leave(request, fault, pod)

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        return await self._change(request, "patch", ("metadata", "spec"))

    async def _patch_status(self, request: web.Request) -> web.StreamResponse:
        return await self._change(request, "status", ("status",))

    async def _change(self, request: web.Request, verb: str, parts: tuple[str, ...]) -> web.StreamResponse:
        fault, done = await self._enter(request, verb)
        if done is not None:
            return done
        if request.content_type != "application/merge-patch+json":
            return answer(
                failure(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
            )
        patch = await request.json()
        before = self._pods.get(request.match_info["name"])
        if before is None:
            return not_found(request)
        wanted = patch.get("metadata", {})
        if (
            wanted.get("resourceVersion", before["metadata"]["resourceVersion"])
            != before["metadata"]["resourceVersion"]
        ):
            return conflict(request)
        if wanted.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
            return answer(failure(422, "Invalid", "metadata.uid: Invalid value: field is immutable"))
        after = copy.deepcopy(before)
        for part in parts:
            after[part] = merge(after.get(part, {}), patch.get(part, {}))
        if after.get("spec") != before.get("spec"):
            return answer(failure(422, "Invalid", "spec: Forbidden: pod updates may not change fields"))
        wrong = invalid(after)
        if wrong:
            return answer(failure(422, "Invalid", wrong))
        written = before if after == before else self._write(before, after)
        return await self._leave(request, fault, written)

    async def _bind(self, request: web.Request) -> web.StreamResponse:
        fault, done = await self._enter(request, "bind")
        if done is not None:
            return done
        pod = self._pods.get(request.match_info["name"])
        if pod is None:
            return not_found(request)
        if pod["spec"].get("nodeName"):
            return conflict(request)
        after = copy.deepcopy(pod)
        after["spec"]["nodeName"] = (await request.json())["target"]["name"]
        after["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self._write(pod, after)
        return await self._leave(request, fault, {"kind": "Status", "status": "Success"}, 201)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        fault, done = await self._enter(request, "delete")
        if done is not None:
            return done
        options = await request.json() if request.can_read_body else {}
        pod = self._pods.get(request.match_info["name"])
        if pod is None:
            return not_found(request)
        for key, value in (options.get("preconditions") or {}).items():
            if pod["metadata"][key] != value:
                return conflict(request)
        grace_s = options.get("gracePeriodSeconds", pod["spec"].get("terminationGracePeriodSeconds", 30))
        # A Pod without a node, or one that has ended, needs nobody's word.
        if not pod["spec"].get("nodeName") or pod["status"]["phase"] in ("Succeeded", "Failed"):
            grace_s = 0
        if grace_s == 0:
            self._write(pod, None)
            return await self._leave(request, fault, pod)
        after = copy.deepcopy(pod)
        if (
            "deletionTimestamp" not in after["metadata"]
            or grace_s < after["metadata"]["deletionGracePeriodSeconds"]
        ):
            after["metadata"] |= {"deletionTimestamp": now_text(), "deletionGracePeriodSeconds": grace_s}
            after = self._write(pod, after)
        return await self._leave(request, fault, after)

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        is_watch = request.query.get("watch") in ("true", "1")
        fault, done = await self._enter(request, "watch" if is_watch else "list")
        if done is not None:
            return done
        if is_watch:
            return await self._watch(request)
        return await self._list(request, fault)

    async def _list(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        limit = int(request.query.get("limit", "0"))
        token = request.query.get("continue", "")
        if token:
            version, start = json.loads(base64.urlsafe_b64decode(token))
            if version not in self._snapshots:
                words = "The provided continue parameter is too old to display a consistent list result."
                return answer(failure(410, "Expired", words))
            found = self._snapshots[version]
        else:
            version, start = self._version, 0
            selector = request.query.get("labelSelector", "")
            found = [self._pods[name] for name in sorted(self._pods) if matches(self._pods[name], selector)]
        stop = start + limit if limit else len(found)
        metadata = {"resourceVersion": str(version)}
        if stop < len(found):
            self._snapshots[version] = found
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps([version, stop]).encode()).decode()
        document = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": found[start:stop]}
        return await self._leave(request, fault, document)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        version = int(request.query.get("resourceVersion") or self._version)
        if version < self._compacted:
            return answer(failure(410, "Expired", f"too old resource version: {version}"))
        watch = Watch(request.query.get("labelSelector", ""))
        for written in self._history:
            if written.version > version:
                self._tell(watch, written)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        self._watches.add(watch)
        try:
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                await response.prepare(request)
                if self.is_brief and ADMIN not in request.headers["Authorization"]:
                    return response
                async with asyncio.timeout(float(request.query.get("timeoutSeconds", "1800"))):
                    while (event := await self._next(watch, request)) is not None:
                        while (
                            self.is_silent and ADMIN not in request.headers["Authorization"]
                        ):  # the stream stays open, and nothing comes
                            await asyncio.Event().wait()
                        line = {"type": event[0], "object": event[1]}
                        await response.write(json.dumps(line).encode() + b"\n")
        finally:
            self._watches.discard(watch)
        return response

    async def _next(self, watch: Watch, request: web.Request) -> tuple[str, Document] | None:
        wants_bookmarks = request.query.get("allowWatchBookmarks") == "true"
        while True:
            try:
                async with asyncio.timeout(self.bookmark_s if wants_bookmarks else None):
                    event = await watch.queue.get()
            except TimeoutError:
                self.send_bookmarks()
                continue
            if event is None or event[0] != "BOOKMARK" or wants_bookmarks:
                return event

    # What is kept

    def _write(self, before: Document | None, after: Document | None) -> Document:
        """Replace one version of a Pod by the next, and tell who watches; a deletion is a version too."""
        self._version = next(self._versions)
        document = after if after is not None else copy.deepcopy(before)
        assert document is not None
        document["metadata"]["resourceVersion"] = str(self._version)
        name = document["metadata"]["name"]
        if after is None:
            self._pods.pop(name, None)
        else:
            self._pods[name] = after
        written = Written(self._version, before, after if after is not None else None)
        self._history.append(written)
        for watch in self._watches:
            self._tell(watch, written, document)
        self._moved.set()
        return document

    def _tell(self, watch: Watch, written: Written, document: Document | None = None) -> None:
        was = written.before is not None and matches(written.before, watch.selector)
        is_now = written.after is not None and matches(written.after, watch.selector)
        if is_now:
            watch.queue.put_nowait(("MODIFIED" if was else "ADDED", copy.deepcopy(written.after or {})))
        elif was:
            gone = copy.deepcopy(document or written.after or written.before or {})
            gone["metadata"]["resourceVersion"] = str(written.version)
            watch.queue.put_nowait(("DELETED", gone))


def answer(document: Document, headers: dict[str, str] | None = None, status: int = 200) -> web.Response:
    """Return a document as JSON; a Status brings its own code."""
    if document.get("kind") == "Status" and "code" in document:
        status = document["code"]
    return web.Response(
        body=json.dumps(document).encode(), status=status, headers=headers, content_type="application/json"
    )


def failure(code: int, reason: str, message: str) -> Document:
    """Return a Status as the API server writes it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def not_found(request: web.Request) -> web.Response:
    return answer(failure(404, "NotFound", f'pods "{request.match_info["name"]}" not found'))


def conflict(request: web.Request) -> web.Response:
    words = (
        f'Operation cannot be fulfilled on pods "{request.match_info["name"]}": the object has been modified'
    )
    return answer(failure(409, "Conflict", words))


def matches(pod: Document, selector: str) -> bool:
    """Say whether the labels are equal to all that the selector names."""
    labels = pod["metadata"].get("labels") or {}
    wanted = [part.partition("=") for part in selector.split(",") if part]
    return all(labels.get(key) == value for key, _, value in wanted)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def invalid(pod: Document) -> str:
    """Say what is wrong with a Pod, as far as the driver could get it wrong."""
    metadata = pod.get("metadata", {})
    if not NAME.match(metadata.get("name", "")) or len(metadata["name"]) > 253:
        return "metadata.name: Invalid value"
    for key, value in (metadata.get("labels") or {}).items():
        if not LABEL.match(value) or len(value) > 63:
            return f"metadata.labels: Invalid value: {key}={value}"
    for container in pod.get("spec", {}).get("containers", ()):
        if not container.get("image"):
            return "spec.containers[0].image: Required value"
    return ""


def now_text() -> str:
    """Return the time as Kubernetes writes it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
