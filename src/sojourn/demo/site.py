"""The demo's made-up site: devices, people, rules, houses, and where everything listens.

Usual ports and the usual control socket where they are free, so that plain ``sojourn sessions list`` finds the demo;
others where they are not, so that several demos run at once.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sojourn.admin.config import AdminSettings
from sojourn.admin.serving import control_socket
from sojourn.config import SojournSettings
from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings, LogSettings, TlsSettings
from sojourn.core.tls import client_context
from sojourn.demo.alarm_day import AlarmHouse
from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.config import ExchangeSettings, PodSettings
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings
from sojourn.gateways.exchange.storage import StoreSettings
from sojourn.gateways.tacacs.config import (
    Accounting,
    Device,
    FileSink,
    Rule,
    SharedSecret,
    TacacsSettings,
    User,
)
from sojourn.gateways.tacacs.passwords import hash_password, new_seal_key, seal
from sojourn.gateways.tacacs.peer import TacacsClient

if TYPE_CHECKING:
    from sojourn.demo.database import DatabasePair

HOST: Final = "127.0.0.1"
TACACS_PORT: Final = 4949
TLS_PORT: Final = 4950
POSTGRES_PORT: Final = 6432
EXCHANGE_PORT: Final = 8480
ITV2_PORT: Final = 3072
ADMIN_PORT: Final = 9300
SERVER_NAME: Final = "sojourn.example.net"
SWITCH_NAME: Final = "switch-7.example.net"
ANA: Final = "ana"
BEN: Final = "ben"
CHLOE: Final = "chloe"
DMITRI: Final = "dmitri"
EVE: Final = "eve"
BACKUP: Final = "backup"
PEOPLE: Final = {
    ANA: "netops",
    BEN: "helpdesk",
    CHLOE: "netops",
    DMITRI: "helpdesk",
    EVE: "contractors",
    BACKUP: "netops",
}
"""Every user, and the group that the rules know them by."""


class Equipment(NamedTuple):
    """A device: the address that it connects from, and the group that the rules know it by."""

    name: str
    address: str
    group: str


SWITCH: Final = Equipment("switch-7", HOST, "access")
CORE: Final = Equipment("core-1", "127.0.0.11", "core")
EDGE: Final = Equipment("edge-3", "127.0.0.12", "edge")
FIREWALL: Final = Equipment("firewall-2", "127.0.0.13", "firewall")
DEVICES: Final = (SWITCH, CORE, EDGE, FIREWALL)


class Site:
    """The demo's settings and the people and devices that use them.

    Life: as long as its directory. Making one hashes passwords and makes keys, which takes a moment.
    """

    def __init__(self, directory: Path) -> None:
        self.records = directory / "accounting.jsonl"
        self.log = directory / "sojourn.log"
        self._keys = {device: secrets.token_hex(16) for device in DEVICES}
        self.passwords = {name: secrets.token_urlsafe(9) for name in PEOPLE}
        self._directory = directory
        authority = ThrowAwayAuthority(directory)
        self._server, self._switch = (
            authority.issue("server", (SERVER_NAME, HOST)),
            authority.issue("switch-7", (SWITCH_NAME,)),
        )
        self._ca_file = authority.ca_file
        self._seal_key = new_seal_key()
        self.dev_key_file = directory / "dev-key.json"
        self._users = tuple(
            User(
                name=name,
                groups=(group,),
                password=Secret(hash_password(self.passwords[name])),
                secret=Secret(seal(self.passwords[name], self._seal_key, name)),
            )
            for name, group in PEOPLE.items()
        )
        self.is_on_its_own = False
        self.usual_control = control_socket(AdminSettings(), os.environ)
        self.control = self.usual_control if _is_free(self.usual_control) else directory / "control.sock"
        self.pair: DatabasePair | None = None
        self.has_exchange = False
        self.alarm = AlarmHouse(directory)
        self.host = HOST
        self.tacacs_port, self.tls_port, self.postgres_port, self.exchange_port, self.admin_port = (
            _free_port(port) for port in (TACACS_PORT, TLS_PORT, POSTGRES_PORT, EXCHANGE_PORT, ADMIN_PORT)
        )
        self.itv2_port = _free_port(ITV2_PORT)

    def leave_usual_places(self) -> None:
        """Listen in the own directory and on free ports only."""
        self.is_on_its_own = True
        self.control = self._directory / "control.sock"
        self.tacacs_port = self.tls_port = self.postgres_port = self.exchange_port = self.admin_port = 0
        self.itv2_port = 0

    def found_places(self, listeners: Sequence[str], admin: str) -> None:
        """Take note of the addresses that were bound in the end, listeners in their order."""
        ports = [int(address.rpartition(":")[2]) for address in listeners]
        self.tacacs_port, self.tls_port = ports[:2]
        if self.pair is not None:
            self.postgres_port = ports[2]
        if self.has_exchange:
            self.exchange_port = ports[3]
        self.itv2_port = ports[-1]  # the last of all
        self.admin_port = int(admin.rpartition(":")[2])

    @property
    def postgres_address(self) -> str:
        """Return where the database is to be had, through the gateway."""
        return f"{HOST}:{self.postgres_port}"

    @property
    def exchange_url(self) -> str:
        """Return where sessions are to be had."""
        return f"http://{HOST}:{self.exchange_port}"

    def settings(self) -> SojournSettings:
        """Return what a ``sojourn.toml`` of this site would say."""
        tls = TlsSettings(
            certificate_file=str(self._server.certificate_file),
            private_key_file=str(self._server.private_key_file),
            client_ca_file=str(self._ca_file),
        )
        return SojournSettings(
            log=LogSettings(file=str(self.log), format="json"),
            admin=AdminSettings(
                address=f"{HOST}:{self.admin_port}", socket=str(self.control), metrics_without_token=True
            ),
            postgres=None if self.pair is None else self.pair.settings(self.postgres_address),
            exchange=self._exchange(self.pair) if self.pair is not None and self.has_exchange else None,
            itv2=self.alarm.settings(f"{HOST}:{self.itv2_port}"),
            tacacs=TacacsSettings(
                listeners=(
                    ListenerSettings(address=f"{HOST}:{self.tacacs_port}"),
                    ListenerSettings(address=f"{HOST}:{self.tls_port}", tls=tls),
                ),
                devices=tuple(self._device(one) for one in DEVICES),
                users=self._users,
                rules=(
                    Rule(name="netops-session", user_groups=("netops",), add=("priv-lvl=15",)),
                    Rule(name="helpdesk-looks", user_groups=("helpdesk",), commands=("", "show", "ping")),
                    Rule(
                        name="edge-only",
                        user_groups=("contractors",),
                        device_groups=(EDGE.group,),
                        commands=("", "show interfaces", "ping", "traceroute"),
                    ),
                ),
                accounting=Accounting(files=(FileSink(name="records", path=str(self.records)),)),
                seal_key=self._seal_key,
            ),
        )

    def _exchange(self, pair: DatabasePair) -> ExchangeSettings:
        """Return a gateway whose simulators end with it."""
        return ExchangeSettings(
            listeners=(ListenerSettings(address=f"{HOST}:{self.exchange_port}"),),
            pod=PodSettings(name="demo"),
            auth=AuthSettings(dev_key_file=str(self.dev_key_file)),
            store=StoreSettings(dsn=Secret(pair.sessions_dsn())),
            process=ProcessSettings(directory=str(self._directory / "simulators"), dies_with_parent=True),
        )

    def _device(self, one: Equipment) -> Device:
        is_switch = one is SWITCH
        return Device(
            name=one.name,
            # The longest prefix wins: the switch is at whatever address is nobody's.
            networks=("127.0.0.0/8",) if is_switch else (one.address,),
            certificate_names=(SWITCH_NAME,) if is_switch else (),
            groups=(one.group,),
            secrets=(SharedSecret(value=Secret(self._keys[one])),),
        )

    def client(self, key: str = "", *, device: Equipment = SWITCH, typing_s: float = 0.0) -> TacacsClient:
        """Return a device's side of one connection that carries many sessions.

        Args:
            key: another one than the device's.
            typing_s: how long its users take for an answer.
        """
        secret = (key or self._keys[device]).encode()
        return TacacsClient(
            HOST,
            self.tacacs_port,
            key=secret,
            single_connect=True,
            from_address=device.address,
            typing_s=typing_s,
        )

    def tls_client(self) -> TacacsClient:
        """Return the switch's side of a connection over TLS, proven by its certificate."""
        context = client_context(
            str(self._ca_file), str(self._switch.certificate_file), str(self._switch.private_key_file)
        )
        return TacacsClient(HOST, self.tls_port, tls=context, server_name=SERVER_NAME, single_connect=True)


def _free_port(wanted: int) -> int:
    """Return ``wanted`` if nobody listens there, else 0, which takes a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
            probe.listen(1)
        except OSError:
            return 0
        return wanted


def _is_free(path: Path) -> bool:
    """Tell whether no server answers on a control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return True
        return False
