"""Devices are found by address or certificate, and their keys are tried in a useful order."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.secret import Secret
from sojourn.gateways.tacacs import devices as devices_module
from sojourn.gateways.tacacs.config import Device, SharedSecret, TacacsSettings
from sojourn.gateways.tacacs.devices import DeviceTable, KeyRing, certificate_names, parse_network

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC).timestamp()


def device(name: str, *networks: str, keys: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> Device:
    secrets = tuple(SharedSecret(value=Secret(key)) for key in keys)
    return Device(name=name, networks=networks, secrets=secrets, certificate_names=names)


def test_the_longest_prefix_wins() -> None:
    """One address, several networks: the most exact one says which device it is."""
    table = DeviceTable(
        [
            device("all", "0.0.0.0/0"),
            device("net", "10.0.0.0/8"),
            device("host", "10.1.2.3"),
            device("six", "::/0"),
        ]
    )
    for address, name in (
        ("10.1.2.3", "host"),
        ("10.1.2.4", "net"),
        ("192.0.2.1", "all"),
        ("2001:db8::1", "six"),
    ):
        found = table.find(address)
        assert found is not None
        assert found.name == name


def test_an_unknown_address_is_nobody() -> None:
    """RFC 8907 section 10.5.1: only known clients may connect; what is no address is not known."""
    table = DeviceTable([device("a", "10.0.0.0/8")])
    for address in ("11.0.0.1", "::1", "", "r1.example.net", "10.0.0.256", "/run/x.sock"):
        assert table.find(address) is None


def test_a_mapped_address_is_an_ipv4_address() -> None:
    """RFC 4291 section 2.5.5.2, in the address and in the network."""
    table = DeviceTable(
        [device("a", "10.0.0.0/8"), device("b", "::ffff:192.0.2.0/120"), device("c", "fe80::/64")]
    )
    for address, name in (("::ffff:10.9.9.9", "a"), ("192.0.2.9", "b"), ("fe80::1%eth0", "c")):
        found = table.find(address)
        assert found is not None
        assert found.name == name


@given(
    st.lists(st.ip_addresses(v=4), min_size=1, max_size=12),
    st.lists(st.integers(0, 32), min_size=12, max_size=12),
)
def test_the_table_agrees_with_a_search_of_all_networks(
    addresses: list[ipaddress.IPv4Address], lengths: list[int]
) -> None:
    """For any networks and any address."""
    pairs = zip(addresses, lengths, strict=False)
    networks = list(dict.fromkeys(ipaddress.ip_network((int(a), n), strict=False) for a, n in pairs))
    table = DeviceTable([device(f"d{index}", str(network)) for index, network in enumerate(networks)])
    for address in addresses:
        best = max((n for n in networks if address in n), key=lambda n: n.prefixlen)
        found = table.find(str(address))
        assert found is not None
        assert found.name == f"d{networks.index(best)}"


def test_the_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan from many addresses does not fill the memory."""
    monkeypatch.setattr(devices_module, "CACHED_ADDRESSES_COUNT", 10)
    table = DeviceTable([device("a", "10.0.0.0/8")])
    for number in range(100):
        assert table.find(f"10.0.0.{number}") is not None
        assert table.find(f"11.0.0.{number}") is None
    assert len(table._cache) <= 10


def test_a_network_with_bits_behind_its_prefix_is_refused() -> None:
    """10.0.0.1/8 is more likely a slip than a wish."""
    with pytest.raises(ValueError, match="host bits"):
        parse_network("10.0.0.1/8")


def test_a_certificate_is_known_by_its_names() -> None:
    """RFC 9887 section 3.4.1: dNSName and iPAddress; '*' stands for one label, exact names win."""
    table = DeviceTable(
        [
            device("wild", names=("*.example.net",)),
            device("exact", names=("R1.example.net.",)),
            device("address", names=("192.0.2.1", "2001:DB8::1")),
        ]
    )

    def found(*names: str) -> str | None:
        result = table.find_by_certificate(names)
        return result.name if result is not None else None

    assert found("r1.EXAMPLE.net") == "exact"
    assert found("r2.example.net.") == "wild"
    assert found("r2.example.net", "r1.example.net") == "exact"
    assert found("192.0.2.1") == "address"
    assert found("2001:db8:0::1") == "address"
    for name in ("a.b.example.net", "example.net", ".example.net", "*.example.net", "192.0.2.2", ""):
        assert found(name) is None
    assert found() is None


def test_a_dns_name_that_reads_like_an_address_is_left_out() -> None:
    """Else a certificate for a DNS name of that spelling would pass for the address."""
    shown = {
        "subjectAltName": (("DNS", "192.0.2.1"), ("DNS", "r1.x"), ("IP Address", "10.0.0.1"), ("URI", "u"))
    }
    assert certificate_names(shown) == ("r1.x", "10.0.0.1")
    assert certificate_names({}) == ()


def test_the_key_that_worked_last_is_tried_first() -> None:
    """During a rotation most packets need one trial."""
    router = device("r", "10.0.0.1", keys=("old", "new", "next"))
    ring = KeyRing(TacacsSettings(devices=(router,)))
    assert ring.candidates(router) == (b"old", b"new", b"next")
    ring.note_used(router, ring.index_of(router, b"next"), NOW)
    assert ring.candidates(router) == (b"next", b"old", b"new")
    ring.note_used(router, 1, NOW + 1)
    assert ring.candidates(router) == (b"new", b"next", b"old")


def test_what_is_not_declared_has_no_keys() -> None:
    """A device of an older snapshot, or a key that is gone, changes nothing."""
    ring = KeyRing(TacacsSettings())
    ghost = device("ghost", keys=("k",))
    assert ring.candidates(ghost) == ()
    assert ring.index_of(ghost, b"k") == -1
    ring.note_used(ghost, 0, NOW)
    known = KeyRing(TacacsSettings(devices=(ghost,)))
    known.note_used(ghost, -1, NOW)
    known.note_used(ghost, 1, NOW)
    assert known.snapshot(NOW)[0].last_used is None


def test_what_is_known_of_a_key_survives_a_reload() -> None:
    """Where device name and key are the same, also at another place."""
    before = TacacsSettings(devices=(device("r", keys=("a", "b")), device("s", keys=("a",))))
    ring = KeyRing(before)
    ring.note_used(before.devices[0], 0, NOW)
    ring.note_used(before.devices[0], 1, NOW + 5)
    after = TacacsSettings(devices=(device("r", keys=("c", "b")), device("t", keys=("a",))))
    reloaded = KeyRing(after, ring)
    assert [(view.device, view.last_used) for view in reloaded.snapshot(NOW)] == [
        ("r", None), ("r", NOW + 5), ("t", None),
    ]  # fmt: skip
    assert reloaded.candidates(after.devices[0]) == (b"b", b"c")


def test_the_snapshot_warns_of_old_short_and_shared_keys_and_shows_none() -> None:
    """RFC 8907 section 10.5.1: age, 32 characters, one key per device."""
    shared, short = "s" * 40, "short-key"
    secrets = (
        SharedSecret(value=Secret(shared), since=dt.date(2025, 5, 31)),
        SharedSecret(value=Secret(short), since=dt.date(2026, 5, 31)),
    )
    settings = TacacsSettings(
        devices=(Device(name="a", secrets=secrets), device("b", keys=(shared,)), device("c", keys=(shared,)))
    )
    views = KeyRing(settings).snapshot(NOW)
    assert [(view.device, view.index, view.age_days, view.warnings) for view in views] == [
        ("a", 0, 366, ("older than 365 days", "the same key as b, c")),
        ("a", 1, 1, ("shorter than 32 characters",)),
        ("b", 0, None, ("the same key as a, c",)),
        ("c", 0, None, ("the same key as a, b",)),
    ]
    assert shared not in repr(views)
    assert short not in repr(views)
