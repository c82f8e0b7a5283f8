"""What a configuration names must be there, and what will not last is told in time."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from sojourn.config import SojournSettings
from sojourn.config.soundness import file_problems, warnings_of
from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings, TlsSettings
from sojourn.embedded.certificates import LIFETIME, ThrowAwayAuthority
from sojourn.gateways.tacacs.config import (
    Accounting,
    Device,
    Directory,
    FileSink,
    Rule,
    SharedSecret,
    TacacsSettings,
)

NOW = datetime.datetime.now(datetime.UTC)
STORED = Accounting(files=(FileSink(name="records", path="records.jsonl"),))
KEYS = (SharedSecret(value=Secret("k" * 32)),)


def settings(*listeners: ListenerSettings, **more: object) -> SojournSettings:
    """Return settings with these listeners, a sink, and what else is said."""
    return SojournSettings(tacacs=TacacsSettings(**{"listeners": listeners, "accounting": STORED} | more))  # type: ignore[arg-type]


@pytest.fixture
def listener(tmp_path: Path) -> ListenerSettings:
    """Give a listener whose TLS files are there."""
    authority = ThrowAwayAuthority(tmp_path)
    server = authority.issue("server", ("localhost",))
    tls = TlsSettings(
        certificate_file=str(server.certificate_file),
        private_key_file=str(server.private_key_file),
        client_ca_file=str(authority.ca_file),
    )
    return ListenerSettings(tls=tls)


def test_every_file_of_every_listener_is_looked_at(listener: ListenerSettings, tmp_path: Path) -> None:
    """All problems at once, each with the listener that has it."""
    bad = TlsSettings(certificate_file=str(tmp_path / "a"), private_key_file=str(tmp_path / "b"))
    found = list(file_problems(settings(ListenerSettings(), listener, ListenerSettings(tls=bad))))
    assert [(problem.table, problem.key) for problem in found] == [
        ("tacacs.listeners[2].tls", "certificate_file"),
        ("tacacs.listeners[2].tls", "private_key_file"),
    ]
    assert list(file_problems(SojournSettings())) == []


def test_a_certificate_is_warned_about_before_it_ends(listener: ListenerSettings) -> None:
    """Nothing while it is fresh; one sentence for each certificate that ends soon or has ended."""
    assert warnings_of(settings(listener), NOW) == []
    for moment, word in (
        (NOW + LIFETIME - datetime.timedelta(days=3), "ends on"),
        (NOW + LIFETIME * 2, "ended on"),
    ):
        sentences = warnings_of(settings(listener), moment)
        assert len(sentences) == 2
        assert all(one.startswith("tacacs.listeners[0]: ") and word in one for one in sentences)


def test_weak_keys_are_warned_about_without_being_shown() -> None:
    """Old, short and shared ones, by their place in the device's list."""
    key, short = Secret("k" * 32), Secret("short-but-private")
    devices = (
        Device(
            name="a",
            networks=("10.0.0.1",),
            secrets=(SharedSecret(value=key, since=datetime.date(2001, 1, 1)), SharedSecret(value=short)),
        ),
        Device(name="b", networks=("10.0.0.2",), secrets=(SharedSecret(value=key),)),
    )
    sentences = warnings_of(settings(ListenerSettings(), devices=devices), NOW)
    assert sentences == [
        "tacacs: key 1 of device a: older than 365 days",
        "tacacs: key 1 of device a: the same key as b",
        "tacacs: key 2 of device a: shorter than 32 characters",
        "tacacs: key 1 of device b: the same key as a",
    ]


def test_a_server_that_no_device_can_reach_is_warned_about(listener: ListenerSettings) -> None:
    """Each device needs a listener of its kind: a key and an address for plain TCP, a name for TLS."""
    by_key = Device(name="by-key", networks=("10.0.0.1",), secrets=KEYS)
    by_name = Device(name="by-name", networks=("10.0.0.2",), certificate_names=("r1.example.net",))
    plain = ListenerSettings()
    assert warnings_of(settings(devices=(by_key, by_name)), NOW) == [
        "tacacs: no listener, so no device can connect"
    ]
    for listeners, names in (((plain,), ["by-name"]), ((listener,), ["by-key"]), ((plain, listener), [])):
        assert warnings_of(settings(*listeners, devices=(by_key, by_name)), NOW) == [
            f"tacacs: device {name} fits no listener: TCP wants networks and secrets, TLS certificate_names"
            for name in names
        ]


def test_records_that_nothing_stores_are_warned_about() -> None:
    """RFC 8907 section 7: without a sink there is never a SUCCESS."""
    assert warnings_of(settings(ListenerSettings(), accounting=Accounting()), NOW) == [
        "tacacs: no accounting sink, so every accounting record is answered with ERROR"
    ]


@pytest.mark.parametrize(
    ("url", "start_tls", "is_warned"),
    [
        ("ldap://ldap.example.net", False, True),
        ("ldap://192.0.2.1:3389", False, True),
        ("ldap://localhost.example.net", False, True),
        ("ldap://ldap.example.net", True, False),
        ("ldaps://ldap.example.net", False, False),
        ("ldap://localhost:3389", False, False),
        ("ldap://127.0.0.2", False, False),
        ("ldap://[::1]", False, False),
    ],
)
def test_passwords_in_the_clear_on_a_network_are_warned_about(
    url: str, start_tls: bool, is_warned: bool
) -> None:
    """RFC 4513 section 6.3.1: a simple bind shows the password to whoever sees it pass."""
    directory = Directory(name="corp", urls=("ldaps://a", url), bind_dn="uid={user}", start_tls=start_tls)
    sentences = warnings_of(settings(ListenerSettings(), directories=(directory,)), NOW)
    wanted = f"tacacs: directory corp: passwords go to {url} in the clear; use ldaps:// or start_tls"
    assert sentences == ([wanted] if is_warned else [])


def test_a_privilege_level_that_does_not_exist_is_warned_about() -> None:
    """RFC 8907 section 9: 0 to 15; a device may take anything else for anything."""
    rules = (
        Rule(name="a", add=("priv-lvl=15", "priv-lvl*0")),
        Rule(name="b", replace=("priv-lvl=150",)),
        Rule(name="c", add=("priv-lvl=",)),
    )
    assert warnings_of(settings(ListenerSettings(), rules=rules), NOW) == [
        "tacacs: rule b grants priv-lvl=150; levels go from 0 to 15",
        "tacacs: rule c grants priv-lvl=; levels go from 0 to 15",
    ]
