"""Where the HTTP API listens: a unix socket for this machine's own command line, and TCP if configured.

Knows nothing of what is served. Life: the daemon starts one before its gateways and stops it after them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import final

from aiohttp import web

from sojourn.admin.access import Access
from sojourn.admin.api import Parts, build_app
from sojourn.admin.audit import Audit
from sojourn.admin.config import AdminSettings
from sojourn.admin.pages import Pages
from sojourn.admin.protocol import Runner
from sojourn.admin.streams import Streams
from sojourn.admin.view import ServerView
from sojourn.core.panel import Scope
from sojourn.errors import ConfigError, Problem
from sojourn.web.front import Rates

_BACKLOG_COUNT = 64
_SHUTDOWN_TIMEOUT_S = 2.0
_LONGEST_SOCKET_PATH_BYTES = 107
"""Source: sun_path of unix(7), without its closing NUL."""


def control_socket(settings: AdminSettings, environ: Mapping[str, str]) -> Path:
    """Return where the control socket is; server and command line ask the same question."""
    if settings.socket:
        return Path(settings.socket)
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "sojourn.sock")
    if os.geteuid() == 0:
        return Path("/run/sojourn/control.sock")
    return Path(tempfile.gettempdir(), f"sojourn-{os.geteuid()}", "control.sock")


def stranger_of(path: Path) -> int | None:
    """Return the user id that a path belongs to, if that is neither ours nor root; root trusts all."""
    owner = path.stat().st_uid
    return None if os.geteuid() == 0 or owner in {0, os.geteuid()} else owner


@final
class AdminServer:
    """The listeners of the HTTP API; between start and stop both are open."""

    def __init__(self, view: ServerView, settings: AdminSettings, control: Path) -> None:
        self.address = ""
        self._settings = settings
        self.control = control
        self._inode = 0
        self._parts = Parts(
            view,
            settings,
            Access(settings),
            Rates(settings.browsers.attempts),
            Audit(view, settings.audit_entries_count),
            Streams(view, settings.streams),
            Pages(view),
            lambda: self.url,
        )
        self._local, self._remote = (
            Runner(
                build_app(self._parts, is_local=is_local), settings, shutdown_timeout_s=_SHUTDOWN_TIMEOUT_S
            )
            for is_local in (True, False)
        )

    @property
    def url(self) -> str:
        """Return where browsers find the dashboard; empty where no address is listened on."""
        if not self.address:
            return ""
        origins = self._settings.browsers.origins
        return origins[0] if origins else f"http://{self.address}"

    def login_link(self, name: str = "browser", scope: Scope = "admin") -> str:
        """Make a link that lets one browser in, once; empty where no address is listened on."""
        if not self.url:
            return ""
        secret, _ = self._parts.access.new_link(name, scope)
        return f"{self.url}/login#{secret}"

    async def start(self) -> None:
        """Open the listeners; :attr:`address` says afterwards which TCP port was taken.

        Raises: ConfigError if one of them cannot be opened; none is open then.
        """
        try:
            await self._start_local()
            if self._settings.address:
                await self._start_remote()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the listeners, let requests finish for two seconds, and take the socket's file away."""
        self._parts.streams.close()
        await self._remote.cleanup()
        await self._local.cleanup()
        with contextlib.suppress(OSError):
            if self._inode and self.control.stat().st_ino == self._inode:
                self.control.unlink()
        self._inode = 0

    async def _start_local(self) -> None:
        listening = _open_control_socket(self.control)
        self._inode = self.control.stat().st_ino
        await self._local.setup()
        await web.SockSite(self._local, listening).start()

    async def _start_remote(self) -> None:
        host, _, port = self._settings.address.rpartition(":")
        await self._remote.setup()
        site = web.TCPSite(self._remote, host.strip("[]"), int(port), backlog=_BACKLOG_COUNT)
        try:
            await site.start()
        except OSError as error:
            found = f"{self._settings.address!r}: {os.strerror(error.errno or 0)}"
            raise ConfigError([_problem("address", found, "an address that is free here")]) from error
        name = self._remote.addresses[0]
        self.address = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _open_control_socket(path: Path) -> socket.socket:
    """Bind a socket that only its owner may use, in the place of one that a dead server left."""
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH_BYTES:
        found = f"a path of {len(os.fsencode(path))} bytes"
        raise ConfigError([_problem("socket", found, f"at most {_LONGEST_SOCKET_PATH_BYTES} bytes")])
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path.parent)
        _remove_dead(path)
        listening.bind(os.fspath(path))
        # Nobody can connect before listen(), so there is no moment with wider permissions.
        path.chmod(0o600)
        listening.listen(_BACKLOG_COUNT)
        listening.setblocking(False)
    except ConfigError:
        listening.close()
        raise
    except OSError as error:
        listening.close()
        found = f"{path}: {os.strerror(error.errno or 0)}"
        raise ConfigError([_problem("socket", found, "a place where this user may make a socket")]) from error
    return listening


def _check_owner(directory: Path) -> None:
    """Refuse a directory whose owner could put a socket of his own in the place of ours."""
    if (stranger := stranger_of(directory)) is not None:
        found = f"{directory}, which belongs to user {stranger}"
        raise ConfigError([_problem("socket", found, "a directory of this user or of root")])


def _remove_dead(path: Path) -> None:
    """Unlink a socket that nobody listens on.

    Raises: ConfigError if somebody does, or if the path is something else.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError([_problem("socket", f"{path}, which is no socket", "a path that is free")])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)  # a socket whose queue is full would hold us here
        try:
            trial.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise ConfigError([_problem("socket", f"{path}, on which a server listens", "one server per socket")])


def _problem(key: str, found: str, wanted: str) -> Problem:
    return Problem("(start)", 0, "admin", key, found, wanted)
