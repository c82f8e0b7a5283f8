"""Which device is at the other end, and which of its keys to try: addresses, certificates, key ages.

Knows nothing of sockets, packets or TLS handshakes; takes addresses and names as text, and time as a number.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from sojourn.gateways.tacacs.config import Device, TacacsSettings

V4: Final = 4
V6: Final = 6
V4_BITS: Final = 32
V6_BITS: Final = 128

MAPPED_PREFIX: Final = 0xFFFF
"""``::ffff:0:0/96``, RFC 4291 section 2.5.5.2: an IPv4 address as a dual-stack socket shows it."""

CACHED_ADDRESSES_COUNT: Final = 16_384
"""Found (and not found) addresses that are remembered; the memory is emptied when it is full."""

RECOMMENDED_KEY_CHARS: Final = 32
"""RFC 8907 section 10.5.1: keys of 32 characters or more."""

Network = tuple[int, int, int]
"""IP version, the prefix as an int, and how far an address must be shifted right to be compared with it."""


def parse_address(text: str) -> tuple[int, int] | None:
    """Turn an address into its IP version and value; an IPv4-mapped IPv6 address is IPv4.

    Returns: None where the text is not an address. A zone (``%eth0``) is ignored.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    value = int(address)
    if address.version == V6 and value >> V4_BITS == MAPPED_PREFIX:
        return V4, value & 0xFFFF_FFFF
    return address.version, value


def parse_network(text: str) -> Network:
    """Turn an address or prefix into a form that compares by one shift.

    Raises: ValueError: if the text is no network, or has bits set behind its prefix.
    """
    network = ipaddress.ip_network(text)
    version, value, length = network.version, int(network.network_address), network.prefixlen
    if version == V6 and value >> V4_BITS == MAPPED_PREFIX and length >= V6_BITS - V4_BITS:
        version, value, length = V4, value & 0xFFFF_FFFF, length - (V6_BITS - V4_BITS)
    shift = (V4_BITS if version == V4 else V6_BITS) - length
    return version, value >> shift, shift


def certificate_names(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the identities of a peer certificate: its dNSNames and iPAddresses, as ``ssl`` shows them.

    A dNSName that reads like an address is left out, so that it cannot pass for an iPAddress.
    """
    names: list[str] = []
    for kind, value in certificate.get("subjectAltName", ()):
        name = value.strip()
        is_address = parse_address(name) is not None
        if (kind == "DNS" and not is_address) or (kind == "IP Address" and is_address):
            names.append(name)
    return tuple(names)


class DeviceTable:
    """The declared devices of one snapshot, found by address (longest prefix wins) or by certificate."""

    def __init__(self, devices: Sequence[Device]) -> None:
        tables: dict[int, dict[int, dict[int, Device]]] = {V4: {}, V6: {}}
        self._exact: dict[str, Device] = {}
        self._wildcards: dict[str, Device] = {}
        self._by_address: dict[tuple[int, int], Device] = {}
        for device in devices:
            for text in device.networks:
                version, prefix, shift = parse_network(text)
                tables[version].setdefault(shift, {}).setdefault(prefix, device)
            for name in device.certificate_names:
                self._add_name(name, device)
        self._tables = {version: tuple(sorted(table.items())) for version, table in tables.items()}
        self._cache: dict[str, Device | None] = {}

    def find(self, address: str) -> Device | None:
        """Return the device at an address, None where no declared network holds it."""
        try:
            return self._cache[address]
        except KeyError:
            pass
        device = self._longest_match(address)
        if len(self._cache) >= CACHED_ADDRESSES_COUNT:
            self._cache.clear()
        self._cache[address] = device
        return device

    def find_by_certificate(self, names: Sequence[str]) -> Device | None:
        """Return the device that one of a certificate's names stands for.

        Names that are declared in full win over wildcards; ``*.example.net`` stands for exactly one label. A
        wildcard *in* the certificate identifies nobody.

        Args:
            names: as from :func:`certificate_names`.
        Source: RFC 9887 section 3.4.1; RFC 9525 section 6.3.
        """
        for name in names:
            address = parse_address(name)
            found = self._by_address.get(address) if address else self._exact.get(_normal(name))
            if found is not None:
                return found
        for name in names:
            label, _, rest = _normal(name).partition(".")
            if label and label != "*" and parse_address(name) is None and rest in self._wildcards:
                return self._wildcards[rest]
        return None

    def _longest_match(self, text: str) -> Device | None:
        address = parse_address(text)
        if address is None:
            return None
        version, value = address
        for shift, prefixes in self._tables[version]:
            device = prefixes.get(value >> shift)
            if device is not None:
                return device
        return None

    def _add_name(self, name: str, device: Device) -> None:
        address = parse_address(name)
        normal = _normal(name)
        if address is not None:
            self._by_address.setdefault(address, device)
        elif normal.startswith("*."):
            self._wildcards.setdefault(normal[2:], device)
        elif "*" not in normal:
            self._exact.setdefault(normal, device)


def _normal(name: str) -> str:
    return name.rstrip(".").lower()


class KeyView(msgspec.Struct, frozen=True):
    """What may be shown of a key; ``index`` is its place in the device's ``secrets``, never its value."""

    device: str
    index: int
    age_days: int | None
    last_used: float | None
    warnings: tuple[str, ...]


class _Ring:
    """The keys of one device: as declared, and in the order in which they are worth trying."""

    __slots__ = ("keys", "last_used", "order")

    def __init__(self, keys: tuple[bytes, ...], last_used: list[float | None]) -> None:
        self.keys = keys
        self.last_used = last_used
        self.order = keys
        self.sort()

    def sort(self) -> None:
        """Put the keys that worked most recently first, the others in the declared order."""
        ranked = sorted(zip(self.keys, self.last_used, strict=True), key=lambda pair: -(pair[1] or 0.0))
        self.order = tuple(key for key, _ in ranked)


class KeyRing:
    """The obfuscation keys of every device of one snapshot and when each last opened a packet.

    Args:
        settings: the snapshot.
        previous: the ring of the snapshot before; what it knows of a key survives where device name and key
            are the same.
    """

    def __init__(self, settings: TacacsSettings, previous: KeyRing | None = None) -> None:
        self._settings = settings
        self._rings: dict[str, _Ring] = {}
        # By digest: the table that looks for shared keys must not be one more copy of them.
        self._owners: dict[bytes, set[str]] = {}
        for device in settings.devices:
            keys = tuple(secret.value.reveal().encode() for secret in device.secrets)
            used = [previous.last_used(device, key) if previous is not None else None for key in keys]
            self._rings[device.name] = _Ring(keys, used)
            for key in keys:
                self._owners.setdefault(hashlib.sha256(key).digest(), set()).add(device.name)

    def candidates(self, device: Device) -> tuple[bytes, ...]:
        """Return a device's keys in the order of trial: the most recently successful one first."""
        ring = self._rings.get(device.name)
        return ring.order if ring is not None else ()

    def index_of(self, device: Device, key: bytes) -> int:
        """Return the place of a key in the device's ``secrets``, for :meth:`note_used`; -1 = not there."""
        ring = self._rings.get(device.name)
        return ring.keys.index(key) if ring is not None and key in ring.keys else -1

    def note_used(self, device: Device, index: int, now: float) -> None:
        """Remember that a key opened a packet.

        Args:
            device: whose key.
            index: its place in ``device.secrets`` (not in :meth:`candidates`, whose order changes).
            now: Unix seconds.
        """
        ring = self._rings.get(device.name)
        if ring is None or not 0 <= index < len(ring.keys):
            return
        ring.last_used[index] = now
        # Sorting only when another key takes the lead: this runs once per session.
        if ring.order[0] is not ring.keys[index]:
            ring.sort()

    def snapshot(self, now: float) -> tuple[KeyView, ...]:
        """Return what may be shown of every key.

        Args:
            now: Unix seconds.
        """
        today = dt.datetime.fromtimestamp(now, dt.UTC).date()
        views: list[KeyView] = []
        for device in self._settings.devices:
            ring = self._rings[device.name]
            for index, (secret, key) in enumerate(zip(device.secrets, ring.keys, strict=False)):
                age = (today - secret.since).days if secret.since is not None else None
                warnings = self._warnings(device.name, key, age)
                views.append(KeyView(device.name, index, age, ring.last_used[index], warnings))
        return tuple(views)

    def last_used(self, device: Device, key: bytes) -> float | None:
        """Return when a key last opened a packet, in Unix seconds; None = never, or no such key."""
        ring = self._rings.get(device.name)
        return ring.last_used[ring.keys.index(key)] if ring is not None and key in ring.keys else None

    def _warnings(self, name: str, key: bytes, age_days: int | None) -> tuple[str, ...]:
        warnings: list[str] = []
        limit = self._settings.secret_max_age_days
        if limit and age_days is not None and age_days > limit:
            warnings.append(f"older than {limit} days")
        if len(key.decode()) < RECOMMENDED_KEY_CHARS:
            warnings.append(f"shorter than {RECOMMENDED_KEY_CHARS} characters")
        others = sorted(self._owners[hashlib.sha256(key).digest()] - {name})
        if others:
            warnings.append(f"the same key as {', '.join(others)}")
        return tuple(warnings)
