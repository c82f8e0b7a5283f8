"""What is wrong with a ``[tacacs]`` table that no single value shows: names, overlaps, dead rules.

Reads declared settings only, and whether a directory's CA file is there; dials nothing and never shows a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final
from zoneinfo import ZoneInfo

from sojourn.gateways.tacacs.config import Device, Directory, Rule, TacacsSettings, TimeWindow, User
from sojourn.gateways.tacacs.devices import Network, parse_address, parse_network
from sojourn.gateways.tacacs.pairs import split_pair
from sojourn.gateways.tacacs.patterns import can_explode
from sojourn.gateways.tacacs.policy import is_regex

Found = tuple[str, str, str]
"""Key path such as ``devices[2].networks[0]``, what was found, what was wanted."""

MAX_PAIR_BYTES: Final = 255
"""RFC 8907 section 6.1: the length of an argument is one byte."""


def find_problems(settings: TacacsSettings) -> Iterator[Found]:
    """Yield everything that the operator has to mend."""
    yield from _repeated("devices", [device.name for device in settings.devices])
    yield from _repeated("users", [user.name for user in settings.users])
    yield from _repeated("directories", [directory.name for directory in settings.directories])
    yield from _repeated("rules", [rule.name for rule in settings.rules])
    yield from _listeners(settings)
    yield from _networks(settings)
    for index, device in enumerate(settings.devices):
        yield from _device(f"devices[{index}]", device, settings.min_secret_length_count)
    yield from _seal_key(settings)
    directories = {directory.name for directory in settings.directories}
    for index, directory in enumerate(settings.directories):
        yield from _directory(f"directories[{index}]", directory)
    for index, user in enumerate(settings.users):
        yield from _user(f"users[{index}]", user, directories)
    yield from _references(settings)
    for index, rule in enumerate(settings.rules):
        yield from _rule(f"rules[{index}]", rule)
    yield from _dead_rules(settings.rules)


def _repeated(table: str, names: list[str]) -> Iterator[Found]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            found = f"{name!r} again, as in {table}[{first[name]}]"
            yield f"{table}[{index}].name", found, "a name that is used once"


def _listeners(settings: TacacsSettings) -> Iterator[Found]:
    for index, listener in enumerate(settings.listeners):
        if listener.tls is None:
            continue
        path = f"listeners[{index}].tls"
        if listener.tls.min_version != "1.3":
            yield (
                f"{path}.min_version",
                repr(listener.tls.min_version),
                "'1.3': RFC 9887 allows nothing older",
            )
        if not listener.tls.client_ca_file:
            wanted = "the certificates that sign devices: over TLS a device is known by its certificate alone"
            yield f"{path}.client_ca_file", "none", wanted


def _networks(settings: TacacsSettings) -> Iterator[Found]:
    owners: dict[Network, tuple[str, str]] = {}
    names: dict[str, tuple[str, str]] = {}
    for number, device in enumerate(settings.devices):
        for index, text in enumerate(device.networks):
            path = f"devices[{number}].networks[{index}]"
            try:
                network = parse_network(text)
            except ValueError:
                yield path, repr(text), _wanted_network(text)
                continue
            owner, place = owners.setdefault(network, (device.name, path))
            if place != path:
                yield path, f"{text!r}, which is {owner}'s too ({place})", "a network that one device has"
        for index, name in enumerate(device.certificate_names):
            path = f"devices[{number}].certificate_names[{index}]"
            normal = name.rstrip(".").lower()
            owner, place = names.setdefault(normal, (device.name, path))
            if place != path:
                yield path, f"{name!r}, which is {owner}'s too ({place})", "a name that one device has"
            if not _is_certificate_name(normal):
                yield path, repr(name), "an address, a DNS name, or '*.' and a DNS name, in ASCII"


def _wanted_network(text: str) -> str:
    try:
        whole = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "an address or a prefix such as 10.0.0.0/8 or 2001:db8::/32"
    return f"an address or a prefix without bits behind it, such as {whole}"


def _is_certificate_name(name: str) -> bool:
    if parse_address(name) is not None:
        return True
    labels = name.removeprefix("*.").split(".")
    return all(re.fullmatch(r"[a-z0-9_-]+", label) is not None for label in labels)


def _device(path: str, device: Device, min_length: int) -> Iterator[Found]:
    if not device.networks and not device.certificate_names:
        yield f"{path}.networks", "neither networks nor certificate_names", "a way to know the device by"
    elif not device.secrets and not device.certificate_names:
        yield f"{path}.secrets", "no key", "at least one key, or certificate_names for TLS"
    first: dict[str, int] = {}
    for index, secret in enumerate(device.secrets):
        value = secret.value.reveal()
        where = f"{path}.secrets[{index}].value"
        if len(value) < min_length:
            wanted = f"at least {min_length} (min_secret_length_count)"
            yield where, f"a key of {len(value)} characters", wanted
        if first.setdefault(value, index) != index:
            yield where, f"the same key as secrets[{first[value]}]", "different keys"


def _seal_key(settings: TacacsSettings) -> Iterator[Found]:
    if settings.seal_key is None:
        for index, user in enumerate(settings.users):
            if user.secret is not None and user.secret.reveal().startswith("sealed:"):
                yield f"users[{index}].secret", "a sealed secret, but no seal_key", "seal_key, to unseal it"
        return
    from sojourn.gateways.tacacs.passwords import check_seal_key, check_sealed  # noqa: PLC0415 - as in _user

    problem = check_seal_key(settings.seal_key)
    if problem is not None:
        yield "seal_key", problem, "32 random bytes in base64"
        return
    for index, user in enumerate(settings.users):
        problem = check_sealed(user.secret, settings.seal_key, user.name) if user.secret is not None else None
        if problem is not None:
            wanted = "what 'sojourn tacacs hash-password --sealed' makes for this user"
            yield f"users[{index}].secret", problem, wanted


def _directory(path: str, directory: Directory) -> Iterator[Found]:
    # Late: a configuration without directories need not load what speaks to them.
    from sojourn.gateways.tacacs.directory import directory_problems  # noqa: PLC0415 - the line above says why

    for key, found, wanted in directory_problems(directory):
        yield f"{path}.{key}" if key else path, found, wanted


def _user(path: str, user: User, directories: set[str]) -> Iterator[Found]:
    if user.directory is not None and user.directory not in directories:
        yield f"{path}.directory", repr(user.directory), f"a declared directory{_known(directories)}"
    if user.password is None and user.enable is None and user.totp is None:
        return
    # Late: a configuration without hashes need not load the libraries that read them.
    from sojourn.gateways.tacacs.passwords import check_hash_format, check_totp_secret  # noqa: PLC0415

    for key, secret in (("password", user.password), ("enable", user.enable)):
        problem = check_hash_format(secret.reveal()) if secret is not None else None
        if problem is not None:
            yield f"{path}.{key}", problem, "a hash as 'sojourn tacacs hash-password' makes it"
    problem = check_totp_secret(user.totp) if user.totp is not None else None
    if problem is not None:
        yield f"{path}.totp", problem, "a base32 secret"


def _references(settings: TacacsSettings) -> Iterator[Found]:
    device_groups = {group for device in settings.devices for group in device.groups}
    user_groups = {group for user in settings.users for group in user.groups}
    user_groups.update(group for directory in settings.directories for group in directory.group_map.values())
    users = {user.name for user in settings.users}
    is_open = any(directory.accept_unknown_users for directory in settings.directories)
    for index, rule in enumerate(settings.rules):
        path = f"rules[{index}]"
        yield from _unknown(f"{path}.device_groups", rule.device_groups, device_groups, "device")
        yield from _unknown(f"{path}.user_groups", rule.user_groups, user_groups, "user or group_map")
        if not is_open:
            for number, name in enumerate(rule.users):
                if name not in users:
                    yield f"{path}.users[{number}]", f"{name!r}, who is not declared", "a declared user"


def _unknown(path: str, names: Iterable[str], known: set[str], holder: str) -> Iterator[Found]:
    for index, name in enumerate(names):
        if name not in known:
            yield f"{path}[{index}]", f"{name!r}, which no {holder} has", f"a group in use{_known(known)}"


def _known(names: set[str]) -> str:
    return f": {', '.join(sorted(names)[:8])}" if names else ""


def _rule(path: str, rule: Rule) -> Iterator[Found]:
    for index, command in enumerate(rule.commands):
        problem = _command(command)
        if problem is not None:
            yield (f"{path}.commands[{index}]", *problem)
    for index, text in enumerate(rule.source_networks):
        try:
            parse_network(text)
        except ValueError:
            yield f"{path}.source_networks[{index}]", repr(text), _wanted_network(text)
    yield from _pairs(path, rule)
    if rule.when is not None:
        yield from _window(f"{path}.when", rule.when)


def _pairs(path: str, rule: Rule) -> Iterator[Found]:
    for key, pairs in (("add", rule.add), ("replace", rule.replace)):
        if pairs and rule.commands and "" not in rule.commands:
            yield f"{path}.{key}", "pairs on a rule for commands", "the entry '': only sessions get pairs"
        if pairs and rule.action == "deny":
            yield f"{path}.{key}", "pairs on a rule that denies", "no pairs"
        for index, pair in enumerate(pairs):
            name, separator, _ = split_pair(pair)
            where = f"{path}.{key}[{index}]"
            if not separator or not name:
                yield where, repr(pair), "name=value (mandatory) or name*value (optional)"
            elif len(pair) > MAX_PAIR_BYTES or not pair.isascii() or not pair.isprintable():
                yield where, repr(pair), f"at most {MAX_PAIR_BYTES} printable ASCII characters"
    if rule.add and rule.replace:
        yield f"{path}.replace", "both add and replace", "one of them"


def _command(command: str) -> tuple[str, str] | None:
    if not command:
        return None  # the session itself
    if not command.strip() or command == "//":
        return repr(command), "words or /a regular expression/"
    if not is_regex(command):
        return None
    pattern = command[1:-1]
    try:
        re.compile(pattern)
        explodes = can_explode(pattern)
    except re.error as error:
        return f"{command!r}: {error}", "a valid regular expression"
    if explodes:
        found = f"{command!r}, whose time can grow exponentially"
        return found, "no repetition of a repetition, such as (a+)+"
    return None


def _window(path: str, window: TimeWindow) -> Iterator[Found]:
    if not window.days:
        yield f"{path}.days", "no day", "at least one day"
    if window.start == window.end:
        yield f"{path}.end", f"{window.end}, the same as start", "another time; a whole day is 00:00 to 24:00"
    try:
        ZoneInfo(window.timezone)
    except (OSError, ValueError, KeyError):
        yield f"{path}.timezone", repr(window.timezone), "an IANA time zone such as Europe/Berlin"


def _dead_rules(rules: tuple[Rule, ...]) -> Iterator[Found]:
    catch_all: Rule | None = None
    for index, rule in enumerate(rules):
        if catch_all is not None:
            found = f"a rule after {catch_all.name!r}, which matches everything"
            yield f"rules[{index}]", found, "a rule that can match"
        elif _matches_everything(rule):
            catch_all = rule


def _matches_everything(rule: Rule) -> bool:
    conditions = (
        rule.device_groups, rule.user_groups, rule.users, rule.services, rule.protocols, rule.commands,
        rule.source_networks,
    )  # fmt: skip
    return not any(conditions) and rule.when is None
