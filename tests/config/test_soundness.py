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
from sojourn.gateways.tacacs.config import Device, SharedSecret, TacacsSettings

NOW = datetime.datetime.now(datetime.UTC)


def settings(*listeners: ListenerSettings, devices: tuple[Device, ...] = ()) -> SojournSettings:
    """Return settings with these listeners and devices."""
    return SojournSettings(tacacs=TacacsSettings(listeners=listeners, devices=devices))


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
            secrets=(SharedSecret(value=key, since=datetime.date(2001, 1, 1)), SharedSecret(value=short)),
        ),
        Device(name="b", secrets=(SharedSecret(value=key),)),
    )
    sentences = warnings_of(settings(devices=devices), NOW)
    assert sentences == [
        "tacacs: key 1 of device a: older than 365 days",
        "tacacs: key 1 of device a: the same key as b",
        "tacacs: key 2 of device a: shorter than 32 characters",
        "tacacs: key 1 of device b: the same key as a",
    ]
