"""A real kube-apiserver and its etcd on loopback, for tests: started once, a namespace per test.

The programs are those that tools/build_kubernetes.py has built. No controller manager, no scheduler, no node: a test
brings the hollow one. Both programs die with us.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme
import yaml

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 60.0
ADMIN = "administrator-token"
Document = dict[str, Any]

_numbers = itertools.count(1)


class KubernetesServer:
    """One API server. Made by :func:`serve`."""

    def __init__(self, url: str, authority: Path, etcd_url: str) -> None:
        self.url = url
        self.authority = authority
        self.etcd_url = etcd_url
        self.tls = ssl.create_default_context(cafile=str(authority))

    def ask(self, method: str, path: str, body: Any = None, token: str = ADMIN) -> tuple[int, Document]:
        """Make one request; a refusal is an answer too."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.tls) as reply:
                status, text = reply.status, reply.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                status, text = refusal.code, refusal.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, {"message": text.decode(errors="replace")}

    def apply(self, document: Document, namespace: str = "") -> None:
        """Make an object."""
        status, said = self.ask("POST", place_of(document, namespace), document)
        assert status == 201, said

    def namespace(self) -> str:
        """Make a namespace with the accounts and the role of deploy/, and return its name."""
        name = f"exchange-{next(_numbers)}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for file in ("service-accounts.yaml", "roles.yaml"):
            for document in yaml.safe_load_all((ROOT / "deploy/base" / file).read_text(encoding="utf-8")):
                for subject in document.get("subjects", ()):
                    subject["namespace"] = name  # as kustomize does
                self.apply(document, name)
        return name

    def account_token(self, namespace: str, account: str = "sojourn-exchange") -> str:
        """Return a token of a service account, as the kubelet asks for one."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        status, said = self.ask("POST", path, body)
        assert status == 201, said
        return str(said["status"]["token"])

    def kubeconfig(self, folder: Path, namespace: str, token: str) -> str:
        """Write a kubeconfig with a token, and return its path."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}
            ],
        }
        path = folder / f"kubeconfig-{namespace}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return str(path)

    def compact(self) -> None:
        """Make etcd forget all versions but the last."""
        revision = self._etcd("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        self._etcd("/v3/kv/compaction", {"revision": revision, "physical": True})

    def _etcd(self, path: str, body: Document) -> Document:
        request = urllib.request.Request(self.etcd_url + path, data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as reply:
            said: Document = json.load(reply)
        return said


def place_of(document: Document, namespace: str) -> str:
    """Return the path of a kind of object."""
    group = document["apiVersion"]
    base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    plural = document["kind"].lower() + ("ies" if document["kind"].endswith("y") else "s")
    plural = plural.replace("yies", "ies")
    return (
        f"{base}/{plural}" if document["kind"] == "Namespace" else f"{base}/namespaces/{namespace}/{plural}"
    )


@contextlib.contextmanager
def serve(programs: Path, *more: str) -> Iterator[KubernetesServer]:
    """Start both programs, and end them with the block; ``more`` are arguments of the API server."""
    with tempfile.TemporaryDirectory(prefix="sojourn-kubernetes-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        etcd, peers, port = free_port(), free_port(), free_port()
        etcd_url = f"http://127.0.0.1:{etcd}"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        leaf = authority.issue_cert("127.0.0.1")
        leaf.private_key_pem.write_to_path(folder / "server.key")
        for pem in leaf.cert_chain_pems:
            pem.write_to_path(folder / "server.pem", append=True)
        (folder / "tokens.csv").write_text(f'{ADMIN},administrator,1,"system:masters"\n', encoding="utf-8")
        stack.enter_context(
            running(
                folder / "etcd.log",
                programs / "etcd",
                f"--data-dir={folder}/etcd",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                "--unsafe-no-fsync",
            )
        )
        process = stack.enter_context(
            running(
                folder / "server.log",
                programs / "kube-apiserver",
                f"--etcd-servers={etcd_url}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--tls-cert-file={folder}/server.pem",
                f"--tls-private-key-file={folder}/server.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={folder}/server.key",
                f"--service-account-key-file={folder}/server.key",
                f"--token-auth-file={folder}/tokens.csv",
                "--authorization-mode=RBAC",
                # It would wait for tokens that only the controller manager makes.
                "--disable-admission-plugins=ServiceAccount",
                "--service-cluster-ip-range=10.96.0.0/16",
                *more,
            )
        )
        server = KubernetesServer(f"https://127.0.0.1:{port}", folder / "ca.pem", etcd_url)
        wait_until_ready(server, process, folder / "server.log")
        yield server


def wait_until_ready(server: KubernetesServer, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server says that it is ready, its roles included."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            ready, _ = server.ask("GET", "/readyz")
            if ready == 200 and server.ask("GET", "/api/v1/namespaces/default")[0] == 200:
                return
        time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise AssertionError("kube-apiserver does not become ready: " + " | ".join(said))


@contextlib.contextmanager
def running(log: Path, program: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a block; it dies with us."""
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(1, signal.SIGKILL)

    environment = {"PATH": "/usr/bin:/bin", "HOME": str(log.parent), "LANG": "C.UTF-8"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - only one system call, and no thread of ours runs yet
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def programs() -> Path | None:
    """Return the folder with the programs, if this run is to use them."""
    folder = os.environ.get("SOJOURN_KUBERNETES")
    return Path(folder) if folder else None
