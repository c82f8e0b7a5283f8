"""A node without containers: it makes Pods run, fail or hang as a test says, over any Kubernetes API.

It binds each Pod to itself and writes its status as a kubelet would, and it ends a Pod that is deleted. A Pod may be a
real simulator: the container's command as a process on this machine, with an address of its own out of 127.0.0.0/8,
and its settings from the annotation that the downward API would make a file of. Not real: images, limits of CPU and
memory, probes, and that a Pod of its own is alone in its network.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import ssl
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

NODE = "hollow"
SETTINGS = "sojourn/settings"
Document = dict[str, Any]

_numbers = itertools.count(1)


def next_address() -> str:
    """Return a loopback address that nobody else has, other test processes neither: each Pod has one of its own."""
    number = (1 << 23) | (os.getpid() & 0xFFFF) << 7 | next(_numbers) & 0x7F
    return f"127.{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}"


class HollowKubelet:
    """The only node of a cluster.

    Life: ``async with HollowKubelet(url, token, namespace) as kubelet``; at the end it kills what it has started.

    Args:
        plan: what becomes of a Pod: ``run``, ``process``, ``hang`` (it is being made for ever), ``unschedulable``,
            ``pull`` (its image cannot be fetched), ``badname``, ``oom``, ``exit`` (code 3), ``done`` (code 0),
            ``stuck`` (runs, and does not end when it is deleted).
    """

    def __init__(
        self,
        url: str,
        token: str,
        namespace: str,
        plan: str | Callable[[Document], str] = "run",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.plan = plan
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.endings: dict[str, int] = {}
        """Names of Pods that it has ended, and the grace that they were given."""
        self._pods = f"{url}/api/v1/namespaces/{namespace}/pods"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = tls
        self._folder = tempfile.TemporaryDirectory(prefix="sojourn-kubelet-")
        self._known: set[str] = set()
        self._ending: set[str] = set()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
        self._http = aiohttp.ClientSession(headers=self._headers, connector=connector)
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._following = self._tasks.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
        for task in list(self._tasks._tasks):  # it has no other way to end what it began
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._http.close()
        self._folder.cleanup()

    async def set_status(self, name: str, **status: Any) -> None:
        """Write a Pod's status."""
        headers = {"Content-Type": "application/merge-patch+json"}
        body = json.dumps({"status": status})
        await self._say("PATCH", f"{name}/status", {200, 404}, data=body, headers=headers)

    async def _say(self, method: str, path: str, fine: set[int], **more: Any) -> None:
        """Make a request, again until it has an answer: a node does not give up."""
        while True:
            try:
                async with self._http.request(method, f"{self._pods}/{path}", **more) as reply:
                    assert reply.status in fine, await reply.text()
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)

    async def run(self, name: str, address: str = "") -> None:
        """Say that a Pod runs, and that its startup probe has succeeded."""
        await self.set_status(name, **running(address or next_address()))

    async def fail(self, name: str, exit_code: int = 1, reason: str = "Error") -> None:
        """Say that a Pod's container has ended badly."""
        await self.set_status(name, **ended("Failed", exit_code, reason))

    async def _follow(self) -> None:
        """List and watch, until cancelled; a hollow one may do so simply."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._http.get(self._pods) as reply:
                    listed = await reply.json()
                if listed.get("kind") != "PodList":
                    await asyncio.sleep(0.05)
                    continue
                for pod in listed["items"]:
                    self._look(pod)
                parameters = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
                async with self._http.get(self._pods, params=parameters, timeout=FOREVER) as reply:
                    async for line in reply.content:
                        event = json.loads(line)
                        if event.get("type") in ("ADDED", "MODIFIED"):
                            self._look(event["object"])
            await asyncio.sleep(0.02)

    def _look(self, pod: Document) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            if metadata["uid"] not in self._ending and pod["spec"].get("nodeName") == NODE:
                self._ending.add(metadata["uid"])
                self._tasks.create_task(self._end(pod))
        elif metadata["uid"] not in self._known and not pod["spec"].get("nodeName"):
            self._known.add(metadata["uid"])
            self._tasks.create_task(self._begin(pod))

    async def _begin(self, pod: Document) -> None:
        name = pod["metadata"]["name"]
        plan = self.plan if isinstance(self.plan, str) else self.plan(pod)
        if plan == "unschedulable":
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient cpu.",
            }
            await self.set_status(name, conditions=[condition])
            return
        await self._bind(name)
        waits = {"hang": "ContainerCreating", "pull": "ImagePullBackOff", "badname": "InvalidImageName"}
        if plan in waits:
            await self.set_status(name, phase="Pending", **waiting(waits[plan]))
        elif plan in ("run", "stuck"):
            await self.run(name)
        elif plan == "process":
            await self._run_process(pod)
        elif plan == "done":
            await self.set_status(name, **ended("Succeeded", 0, "Completed"))
        else:
            code, reason = (137, "OOMKilled") if plan == "oom" else (3, "Error")
            await self.fail(name, code, reason)

    async def _bind(self, name: str) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        await self._say("POST", f"{name}/binding", {200, 201, 404, 409}, json=binding)

    async def _end(self, pod: Document) -> None:
        metadata = pod["metadata"]
        name, grace_s = metadata["name"], metadata["deletionGracePeriodSeconds"]
        self.endings[name] = grace_s
        plan = self.plan if isinstance(self.plan, str) else self.plan(pod)
        if plan == "stuck":
            return
        process = self.processes.get(name)
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await process.wait()
            except TimeoutError:
                process.kill()
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        await self._say("DELETE", name, {200, 404, 409}, json=body)

    def _write_settings(self, name: str, settings: Document) -> Path:
        file = Path(self._folder.name, f"{name}.json")
        file.write_text(json.dumps(settings), encoding="utf-8")
        return file

    async def _run_process(self, pod: Document) -> None:
        """Run the container's command here, and tell how it goes."""
        name = pod["metadata"]["name"]
        container = pod["spec"]["containers"][0]
        port = container["ports"][0]["containerPort"]
        address = next_address()
        settings = json.loads(pod["metadata"]["annotations"][SETTINGS])
        settings["listen"] = f"{address}:{port}"
        file = self._write_settings(name, settings)
        command = [part if part != f"{MOUNT}/settings.json" else str(file) for part in container["command"]]
        program = sys.executable if command[0] == "python" else command[0]
        process = await asyncio.create_subprocess_exec(
            program, *command[1:], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        self.processes[name] = process
        assert process.stdout is not None
        if await process.stdout.readline():
            await self.run(name, address)
        code = await process.wait()
        phase, reason = ("Succeeded", "Completed") if code == 0 else ("Failed", "Error")
        await self.set_status(name, **ended(phase, code if code >= 0 else 128 - code, reason))


FOREVER = aiohttp.ClientTimeout(total=None, sock_read=None)
MOUNT = "/etc/sojourn/simulator"


def running(address: str) -> Document:
    """Return the status of a Pod whose container runs and has been started."""
    container = {
        "name": "simulator",
        "image": "hollow",
        "imageID": "",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {}},
    }
    return {
        "phase": "Running",
        "podIP": address,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True"},
        ],
        "containerStatuses": [container],
    }


def waiting(reason: str) -> Document:
    """Return the status of a container that waits."""
    container = {
        "name": "simulator",
        "image": "hollow",
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": "node-17 says: registry.internal refused"}},
    }
    return {"containerStatuses": [container]}


def ended(phase: str, exit_code: int, reason: str) -> Document:
    """Return the status of a Pod whose container has ended."""
    container = {
        "name": "simulator",
        "image": "hollow",
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "reason": reason}},
    }
    return {"phase": phase, "containerStatuses": [container]}
