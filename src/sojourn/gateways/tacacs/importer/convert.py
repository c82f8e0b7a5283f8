"""From a classic ``tac_plus.conf`` to a ``[tacacs]`` table, with a list of all that is not the same there.

Nothing is lost silently: what has no setting of ours, or means something slightly different, is in
:attr:`Imported.unmapped` with its line and the next step. Clear passwords leave as hashes, clear CHAP secrets
leave sealed or not at all. Opens no file.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from sojourn.gateways.tacacs import passwords
from sojourn.gateways.tacacs.devices import parse_network
from sojourn.gateways.tacacs.importer import toml
from sojourn.gateways.tacacs.importer.grammar import Block, Match, Password, TacPlus, Unmapped, parse_tac_plus
from sojourn.gateways.tacacs.importer.rules import RuleWriter, Who, fit_name
from sojourn.gateways.tacacs.importer.toml import Value

DEFAULT_USER: Final = "DEFAULT"
"""The user block that stands for everybody who has none."""

DEFAULT_KEY_CHARS: Final = 16
"""The default of ``min_secret_length_count``; shorter keys of the old file lower it in the new one."""

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
)  # fmt: skip

Hash = Callable[[str], str]
Seal = Callable[[str, str], str]


class Imported(msgspec.Struct, frozen=True):
    """The new configuration and what it does not, or not exactly, hold."""

    toml: str
    unmapped: list[Unmapped]

    def __repr__(self) -> str:
        return f"Imported({len(self.unmapped)} unmapped)"


def import_tac_plus(
    text: str,
    file_name: str,
    *,
    hash_password: Hash = passwords.hash_password,
    seal: Seal | None = None,
    seal_key_reference: str = "${env:SOJOURN_TACACS_SEAL_KEY}",
) -> Imported:
    """Turn a classic tac_plus configuration into ours.

    Args:
        text: the configuration.
        file_name: named in the comments of the result.
        hash_password: makes the hash of a clear password.
        seal: seals a clear CHAP secret for a user, ``seal(secret, user)``; None = such secrets are listed.
        seal_key_reference: what stands as ``seal_key`` in the result where secrets are sealed.
    """
    parsed = parse_tac_plus(text)
    converter = _Converter(parsed, hash_password, seal, seal_key_reference)
    body = converter.convert()
    unmapped = sorted(dict.fromkeys(converter.unmapped), key=lambda item: item.line)
    head = [
        f"# Made from {toml.comment(file_name)}; the device keys below are as readable as they were there."
    ]
    head += [toml.comment(f"# line {item.line}: {item.text}: {item.why}") for item in unmapped]
    return Imported("\n".join(head) + "\n\n" + body, unmapped)


class _Converter:
    def __init__(self, parsed: TacPlus, hash_password: Hash, seal: Seal | None, seal_key: str) -> None:
        self._in = parsed
        self._hash = hash_password
        self._seal = seal
        self._seal_key = seal_key
        self._is_sealed = False
        self._keys: list[str] = []
        self.unmapped = parsed.unmapped
        self._users = [block for name, block in parsed.users.items() if not _is_special(name)]
        self._group_names = self._fit_groups()
        self._enable, self._enable_level = self._shared_enable()

    def convert(self) -> str:
        devices = list(self._devices())
        users = [self._user(block) for block in self._users]
        rules = self._rules(devices)
        top: dict[str, Value] = {}
        shortest = min(map(len, self._keys), default=DEFAULT_KEY_CHARS)
        if shortest < DEFAULT_KEY_CHARS:
            top["min_secret_length_count"] = shortest
            why = (
                f"RFC 8907 wants 32 characters; min_secret_length_count is {shortest} until keys are changed"
            )
            self._say(self._in.key_line, "key = ***", why)
        if self._is_sealed:
            top["seal_key"] = self._seal_key
        tables = [toml.table("[tacacs]", top)]
        tables += [toml.table("[[tacacs.devices]]", device) for device in devices]
        tables += [toml.table("[[tacacs.users]]", entries, remark) for entries, remark in users]
        tables += [toml.table("[[tacacs.rules]]", rule) for rule in rules]
        return "\n".join([*tables, *self._accounting()])

    def _say(self, line: int, text: str, why: str) -> None:
        self.unmapped.append(Unmapped(line, text, why))

    def _fit_groups(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for name, block in self._in.groups.items():
            fitting = fit_name(name)
            while fitting in names.values():
                fitting += "_"
            names[name] = fitting
            if fitting != name:
                self._say(block.line, f"group = {name}", f"the name is {fitting} now")
        return names

    def _chain(self, block: Block) -> list[Block]:
        """Return a block and the groups it is in, the nearest first."""
        chain = [block]
        while chain[-1].member:
            group = self._in.groups.get(chain[-1].member)
            if group is None or group in chain:
                break
            chain.append(group)
        return chain

    def _password(self, block: Block, *words: str) -> Password | None:
        """Return the first of the passwords that the block or its groups have."""
        for word in words:
            for owner in self._chain(block):
                if word in owner.passwords:
                    return owner.passwords[word]
        return None

    def _devices(self) -> Iterator[dict[str, Value]]:
        for host in self._in.hosts.values():
            key = host.key or self._in.key
            try:
                parse_network(host.name)
            except ValueError:
                self._say(
                    host.line, f"host = {host.name}", "a device is known by address; add it with networks"
                )
                continue
            if not key:
                self._say(host.line, f"host = {host.name}", "it has no key, and there is no key for all")
                continue
            yield self._device(fit_name(host.name.replace(":", "-")), (host.name,), key, host.name, host.line)
        if self._in.key:
            yield self._device("any", ("0.0.0.0/0", "::/0"), self._in.key, None, self._in.key_line)

    def _device(
        self, name: str, networks: tuple[str, ...], key: str, address: str | None, line: int
    ) -> dict[str, Value]:
        self._keys.append(key)
        if "${" in key:
            self._say(line, "key = ***", "it holds '${', which begins a reference here; put it into a file")
        groups = tuple(
            denied_group(acl)
            for acl, entries in self._used_acls()
            if not self._acl_permits(acl, entries, address)
        )
        secrets: Value = ({"value": key},)
        return {"name": name, "networks": networks, "groups": groups, "secrets": secrets}

    def _used_acls(self) -> list[tuple[str, tuple[Match, ...]]]:
        used = {acl for block in self._users if (acl := self._acl_of(block))}
        return [(acl, self._in.acls.get(acl, ())) for acl in sorted(used)]

    def _acl_of(self, block: Block) -> str:
        return next((owner.acl for owner in self._chain(block) if owner.acl), "")

    def _acl_permits(self, acl: str, entries: tuple[Match, ...], address: str | None) -> bool:
        """Judge a device by an access list; an unclear case is a denial."""
        for entry in entries:
            if address is None and entry.pattern not in {".*", "^.*", "^.*$", "."}:
                why = (
                    f"devices without a host block are denied to users of acl {acl}; declare those it permits"
                )
                self._say(entry.line, f"acl {acl}: {entry.pattern}", why)
                return False
            try:
                if re.search(entry.pattern, address or "any"):
                    return entry.permit
            except re.error as error:
                self._say(
                    entry.line, f"acl {acl}: {entry.pattern}", f"{error}; devices are denied from here on"
                )
                return False
        return False

    def _user(self, block: Block) -> tuple[dict[str, Value], str]:
        name = block.name
        entries: dict[str, Value] = {
            "name": name,
            "groups": tuple(self._group_names[group.name] for group in self._chain(block)[1:]),
        }
        last = self._chain(block)[-1]
        if last.member:
            why = (
                "that group does not exist"
                if last.member not in self._in.groups
                else "the groups go in a circle"
            )
            self._say(last.line, f"{last.kind} {last.name}: member = {last.member}", why)
        entries["password"] = self._login(block)
        entries["secret"] = self._chap(block)
        enable = self._password(block, "enable")
        if enable is not None:
            entries["enable"] = self._hashed(f"user {name}: enable", enable)
        elif self._enable:
            entries["enable"] = self._enable
            if self._enable_level != "15":
                entries["enable_max_priv_lvl"] = int(self._enable_level)
        expires = next((owner for owner in self._chain(block) if owner.expires), None)
        if expires is not None:
            date = _date(expires.expires)
            if date is None:
                self._say(expires.expires_line, f"expires = {expires.expires}", "wanted 'MMM DD YYYY'")
                entries["disabled"] = True
            else:
                entries["expires"] = date
        return entries, block.full_name

    def _login(self, block: Block) -> str:
        found = self._password(block, "login") or self._password(block, "global", "pap")
        if found is None:
            why = "no password here (a password file?): give one, or a directory"
            self._say(block.line, f"user = {block.name}", why)
            return ""
        other = self._password(block, "pap")
        if other is not None and (other.kind, other.value) != (found.kind, found.value):
            why = "a user has one password for ASCII and PAP; the one for login was taken"
            self._say(other.line, f"user {block.name}: pap = {other.kind} ***", why)
        return self._hashed(f"user {block.name}: login", found)

    def _hashed(self, text: str, password: Password) -> str:
        """Return the hash of a password, empty (and listed) where there is none to be had."""
        if password.kind == "cleartext":
            return self._hash(password.value)
        if password.kind == "des":
            problem = passwords.check_hash_format(password.value)
            if problem is None:
                return password.value
            self._say(password.line, f"{text} = des ***", f"{problem}; set a password")
            return ""
        whys = {
            "PAM": "PAM is not asked; set a password or a directory",
            "file": f"{password.value} is not read; copy the user's hash from it into password",
            "nopassword": "nobody gets in without a password; set one",
        }
        why = whys.get(password.kind, "not supported; set a password, a directory or totp")
        self._say(password.line, f"{text} = {password.kind}", why)
        return ""

    def _chap(self, block: Block) -> str:
        found = self._password(block, "chap") or self._password(block, "ms-chap", "global")
        other = self._password(block, "ms-chap")
        arap = self._password(block, "arap") or self._password(block, "opap")
        if arap is not None:
            self._say(
                arap.line, f"user {block.name}: arap or opap", "ARAP and outbound PAP are gone from TACACS+"
            )
        if found is None:
            return ""
        text = f"user {block.name}: chap or ms-chap = {found.kind} ***"
        if other is not None and other.value != found.value:
            self._say(
                other.line, text, "a user has one secret for CHAP and MS-CHAP; the one for CHAP was taken"
            )
        if found.kind != "cleartext":
            self._say(found.line, text, "CHAP needs the secret itself; set it with 'hash-password --sealed'")
            return ""
        if self._seal is None:
            self._say(
                found.line, text, "set seal_key and import again, or set it with 'hash-password --sealed'"
            )
            return ""
        self._is_sealed = True
        return self._seal(found.value, block.name)

    def _shared_enable(self) -> tuple[str, str]:
        """Return the hash and the level of the ENABLE password that all users share."""
        found: list[tuple[int, Block]] = []
        for name, block in self._in.users.items():
            match = re.fullmatch(r"\$enab(\d{1,2})\$", name)
            if match is not None and int(match[1]) <= 15:  # noqa: PLR2004 - the highest privilege level
                found.append((int(match[1]), block))
        found.sort(key=lambda pair: -pair[0])
        for level, block in found[1:]:
            why = f"one ENABLE password for all levels: that of level {found[0][0]} was taken, not of {level}"
            self._say(block.line, f"user = {block.name}", why)
        if not found:
            return "", "15"
        level, block = found[0]
        login = self._password(block, "login")
        return (self._hashed(f"user {block.name}: login", login) if login is not None else ""), str(level)

    def _rules(self, devices: list[dict[str, Value]]) -> list[dict[str, Value]]:
        writer = RuleWriter(self.unmapped)
        self._acl_rules(writer, devices)
        known: Who = {"users": tuple(block.name for block in self._users)}
        fallback = self._in.users.get(DEFAULT_USER)
        has_strangers = fallback is not None or self._in.permits_unknown_users
        if self._users:
            writer.sequence(self._owners(), known if has_strangers else {})
            if has_strangers:
                writer.add("known-users-end", known, action="deny")
        if fallback is not None:
            self._say(
                fallback.line, f"user = {DEFAULT_USER}", "authorization only: strangers log in by a directory"
            )
            writer.sequence([(block, {}) for block in self._chain(fallback)], {})
        elif self._in.permits_unknown_users:
            why = "only users of a directory can be strangers here; without one they are refused"
            self._say(self._in.permits_line, "default authorization = permit", why)
            writer.add("unknown-users", {}, action="permit")
        return writer.rules

    def _owners(self) -> list[tuple[Block, Who]]:
        """Return users, then groups, each group before those that it is in."""
        used = {group.name for block in self._users for group in self._chain(block)[1:]}
        groups = sorted(self._in.groups.values(), key=lambda group: -len(self._chain(group)))
        owners: list[tuple[Block, Who]] = [(block, {"users": (block.name,)}) for block in self._users]
        for group in groups:
            if group.name in used:
                owners.append((group, {"user_groups": (self._group_names[group.name],)}))
            else:
                self._say(group.line, f"group = {group.name}", "no user is in it; its rules were left out")
        return owners

    def _acl_rules(self, writer: RuleWriter, devices: list[dict[str, Value]]) -> None:
        held = {group for device in devices for group in _texts(device["groups"])}
        for acl, entries in self._used_acls():
            line = entries[0].line if entries else 0
            why = "it refused the login; now the login succeeds and every authorization is refused"
            self._say(line, f"acl = {acl}", why if entries else "no such access list: every device is denied")
            if denied_group(acl) in held:
                names = tuple(block.name for block in self._users if self._acl_of(block) == acl)
                where: Value = (denied_group(acl),)
                writer.add(f"acl-{acl}", {"users": names, "device_groups": where}, action="deny")

    def _accounting(self) -> Iterator[str]:
        path = self._in.accounting_file
        if path:
            why = f"records are JSON lines now, in {path}.jsonl"
            self._say(self._in.accounting_line, f"accounting file = {path}", why)
            yield toml.table("[[tacacs.accounting.files]]", {"name": "file", "path": f"{path}.jsonl"})
        if self._in.accounting_syslog:
            entries: dict[str, Value] = {"name": "syslog", "address": "unix:///dev/log"}
            facility = _facility(self._in.syslog_facility)
            if facility is not None:
                entries["facility"] = facility
            yield toml.table("[[tacacs.accounting.syslog]]", entries)
        elif self._in.syslog_facility:
            self._say(
                self._in.logging_line,
                f"logging = {self._in.syslog_facility}",
                "the log goes to standard error",
            )


def denied_group(acl: str) -> str:
    """Return the name of the device group to which an access list says no."""
    return fit_name(f"denied-by-{acl}")


def _is_special(name: str) -> bool:
    return name == DEFAULT_USER or re.fullmatch(r"\$enab\d{1,2}\$", name) is not None


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, tuple) else ()


def _facility(name: str) -> int | None:
    if re.fullmatch("local[0-7]", name):
        return 16 + int(name[-1])
    return _FACILITIES.index(name) if name in _FACILITIES else None


def _date(text: str) -> dt.date | None:
    """Read ``MMM DD YYYY``."""
    words = text.replace(",", " ").split()
    try:
        month, day, year = words
        return dt.date(int(year), _MONTHS.index(month[:3].lower()) + 1, int(day))
    except ValueError:
        return None
