"""The TACACS+ gateway's one table of settings, ``[tacacs]`` in ``sojourn.toml``.

Declares names, units, defaults and help; knows nothing of files, lines or how the values are used.
The reference page and the example file are made from these declarations.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import LimitSettings, ListenerSettings, Settings

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*$",
        title="a name (letters, digits, _ . @ -)",
    ),
]
Seconds = Annotated[float, Meta(gt=0)]

Quirk = Literal[
    "minor-version-on-author", "password-in-start-data", "arg-without-separator", "zero-length-arg"
]


class SharedSecret(Settings, frozen=True):
    """One obfuscation key of a device; during a rotation a device has several."""

    value: Annotated[
        Secret,
        Meta(
            description="The key; a ${file:...} or ${env:...} reference is best.",
            examples=["${file:/etc/sojourn/core-1.key}"],
        ),
    ]
    since: Annotated[datetime.date | None, Meta(description="When it was set; its age is shown from it.")] = (
        None
    )


class Device(Settings, frozen=True):
    """A network device, or all devices of some networks, that may connect."""

    name: Annotated[Name, Meta(description="Name of the device in logs and decisions.", examples=["core-1"])]
    networks: Annotated[
        tuple[str, ...], Meta(description="Addresses or prefixes; the longest matching prefix wins.")
    ] = ()
    certificate_names: Annotated[
        tuple[str, ...],
        Meta(
            description="TLS: dNSName or iPAddress of the certificate's subjectAltName; '*' matches one label."
        ),
    ] = ()
    groups: Annotated[tuple[Name, ...], Meta(description="Device groups that rules refer to.")] = ()
    secrets: Annotated[
        tuple[SharedSecret, ...],
        Meta(description="Keys in the order of trial; the one that fits is remembered per connection."),
    ] = ()
    quirks: Annotated[tuple[Quirk, ...], Meta(description="Tolerated deviations of this device.")] = ()
    authen_types: Annotated[
        tuple[Literal["ascii", "pap", "chap", "mschap", "mschapv2"], ...],
        Meta(description="Authentication types allowed; any other is answered with RESTART."),
    ] = ("ascii", "pap", "chap", "mschap", "mschapv2")
    single_connect: Annotated[bool, Meta(description="Grant single-connection mode when asked.")] = True


class User(Settings, frozen=True):
    """A local user."""

    name: Annotated[str, Meta(min_length=1, max_length=255, description="Login name.", examples=["ana"])]
    groups: Annotated[tuple[Name, ...], Meta(description="User groups that rules refer to.")] = ()
    password: Annotated[
        Secret | None,
        Meta(description="A password hash: argon2id, or bcrypt, sha512, sha256, md5 crypt for migration."),
    ] = None
    secret: Annotated[
        Secret | None,
        Meta(
            description="A recoverable secret ('sealed:...' made by hash-password --sealed) for CHAP and MS-CHAP."
        ),
    ] = None
    enable: Annotated[Secret | None, Meta(description="A hash of the ENABLE password, for every level.")] = (
        None
    )
    enable_max_priv_lvl: Annotated[int, Meta(ge=0, le=15, description="Highest level ENABLE may grant.")] = 15
    totp: Annotated[
        Secret | None, Meta(description="Base32 TOTP secret; a second factor is then required.")
    ] = None
    directory: Annotated[
        Name | None, Meta(description="LDAP directory that checks this user's password.")
    ] = None
    expires: Annotated[
        datetime.date | None, Meta(description="The last day on which the account works (UTC).")
    ] = None
    disabled: Annotated[bool, Meta(description="The account does not work.")] = False
    may_change_password: Annotated[bool, Meta(description="CHPASS is allowed.")] = False


class Directory(Settings, frozen=True):
    """An LDAP or Active Directory server group."""

    name: Annotated[Name, Meta(description="Name that users refer to.", examples=["corporate"])]
    urls: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="ldap:// or ldaps:// addresses, tried in order.",
            examples=[["ldaps://ldap.example.net"]],
        ),
    ]
    bind_dn: Annotated[
        str,
        Meta(
            description="Direct bind: a template with {user}; otherwise the search account's DN.",
            examples=["uid={user},ou=people,dc=example,dc=net"],
        ),
    ]
    bind_password: Annotated[Secret | None, Meta(description="The search account's password.")] = None
    search_base: Annotated[str, Meta(description="Where users are searched; empty = direct bind.")] = ""
    search_filter: Annotated[
        str, Meta(description="Filter that finds a user; {user} is replaced, escaped.")
    ] = "(uid={user})"
    group_attribute: Annotated[str, Meta(description="Attribute of a user's entry that names groups.")] = (
        "memberOf"
    )
    group_map: Annotated[dict[str, Name], Meta(description="Directory group DN or CN to user group.")] = (
        msgspec.field(default_factory=dict)
    )
    start_tls: Annotated[
        bool, Meta(description="Begin TLS on an ldap:// connection before anything is sent.")
    ] = False
    ca_file: Annotated[
        str, Meta(description="PEM certificates that sign the server; empty = those of the system.")
    ] = ""
    pool_size_count: Annotated[int, Meta(ge=1, le=256, description="Connections kept open.")] = 4
    timeout_s: Annotated[Seconds, Meta(description="One call; a later answer is ERROR to the device.")] = 3.0
    accept_unknown_users: Annotated[
        bool, Meta(description="Users that exist only in the directory may log in.")
    ] = True


class Lockout(Settings, frozen=True):
    """When guessing passwords stops being possible."""

    failures_count: Annotated[int, Meta(ge=0, description="Failures that lock a user; 0 = never.")] = 5
    window_s: Annotated[Seconds, Meta(description="Failures count together within this time.")] = 300.0
    lock_s: Annotated[Seconds, Meta(description="How long the user stays locked.")] = 900.0
    tracked_users_count: Annotated[
        int, Meta(ge=16, description="Names remembered at once; the oldest is forgotten.")
    ] = 10_000


class TimeWindow(Settings, frozen=True):
    """Days and hours in which a rule applies."""

    days: Annotated[
        tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...],
        Meta(description="Days of the week on which the window begins."),
    ] = (
        "mon",
        "tue",
        "wed",
        "thu",
        "fri",
        "sat",
        "sun",
    )
    start: Annotated[
        str,
        Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", title="a time such as 08:30", description="First minute."),
    ] = "00:00"
    end: Annotated[
        str,
        Meta(
            pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$",
            title="a time such as 18:00 or 24:00",
            description="First minute that no longer counts.",
        ),
    ] = "24:00"
    timezone: Annotated[str, Meta(description="IANA name.")] = "UTC"


class Rule(Settings, frozen=True):
    """One policy rule; the first that matches decides, and none matching means denied."""

    name: Annotated[Name, Meta(description="Name shown in every decision.", examples=["operators-show"])]
    device_groups: Annotated[
        tuple[Name, ...], Meta(description="The device is in one of these; empty = any.")
    ] = ()
    user_groups: Annotated[
        tuple[Name, ...], Meta(description="The user is in one of these; empty = any.")
    ] = ()
    users: Annotated[tuple[str, ...], Meta(description="Login names; empty = any.")] = ()
    services: Annotated[tuple[str, ...], Meta(description="Values of 'service', such as shell or ppp.")] = ()
    protocols: Annotated[tuple[str, ...], Meta(description="Values of 'protocol', such as ip or lcp.")] = ()
    commands: Annotated[
        tuple[str, ...],
        Meta(
            description="Commands ('show'); 'show interfaces' is a prefix of words; '/.../' is a regular expression "
            "over the whole line; '' is the session itself. No entry = the session and every command."
        ),
    ] = ()
    source_networks: Annotated[tuple[str, ...], Meta(description="rem_addr must lie in one of these.")] = ()
    when: TimeWindow | None = None
    action: Annotated[Literal["permit", "deny"], Meta(description="What happens when the rule matches.")] = (
        "permit"
    )
    add: Annotated[
        tuple[str, ...],
        Meta(description="Attribute-value pairs added to a session authorization (PASS_ADD)."),
    ] = ()
    replace: Annotated[tuple[str, ...], Meta(description="Pairs that replace the device's (PASS_REPL).")] = ()
    message: Annotated[str, Meta(description="server_msg shown to the user.")] = ""


class FileSink(Settings, frozen=True):
    """Accounting records as JSON lines."""

    name: Annotated[Name, Meta(description="Name in logs and metrics.", examples=["records"])]
    path: Annotated[
        str, Meta(description="The file that is appended to.", examples=["/var/log/sojourn/accounting.jsonl"])
    ]
    fsync: Annotated[
        Literal["batch", "never"],
        Meta(
            description="batch: one fsync per group of records before SUCCESS; never: the operating system decides."
        ),
    ] = "batch"
    rotate_bytes: Annotated[int, Meta(ge=0, description="Rotate above this size; 0 = never.")] = 100_000_000
    keep_files_count: Annotated[int, Meta(ge=1, description="Rotated files kept.")] = 10


class SyslogSink(Settings, frozen=True):
    """Accounting records as RFC 5424 syslog."""

    name: Annotated[Name, Meta(description="Name in logs and metrics.", examples=["central"])]
    address: Annotated[
        str,
        Meta(
            description="tcp://host:port, tls://host:port, udp://host:port or unix:///dev/log.",
            examples=["tls://syslog.example.net:6514"],
        ),
    ]
    facility: Annotated[int, Meta(ge=0, le=23, description="Syslog facility; 13 is log audit.")] = 13
    sd_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,25}@[0-9]{1,6}$",
            description="Name of the structured data; the number is your private enterprise number.",
        ),
    ] = "tacacs@32473"
    ca_file: Annotated[
        str, Meta(description="PEM certificates that sign the server; empty = those of the system.")
    ] = ""
    timeout_s: Annotated[Seconds, Meta(description="One connection attempt or write.")] = 2.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield an address that is none."""
        try:
            address = urlsplit(self.address)
            is_good = address.path.startswith("/") if address.scheme == "unix" else bool(address.hostname)
            is_good = is_good and address.scheme in {"tcp", "tls", "udp", "unix"} and address.port != 0
        except ValueError:
            is_good = False
        if not is_good:
            wanted = "tcp://host:port, tls://host:port, udp://host:port or unix:///path"
            yield "address", repr(self.address), wanted


class PostgresSink(Settings, frozen=True):
    """Accounting records as rows of a PostgreSQL table, made by numbered migrations."""

    name: Annotated[Name, Meta(description="Name in logs and metrics.", examples=["database"])]
    dsn: Annotated[
        Secret,
        Meta(
            description="Where the database is: postgresql://user:password@host/database.",
            examples=["${file:/etc/sojourn/accounting.dsn}"],
        ),
    ]
    schema: Annotated[
        str, Meta(pattern=r"^[a-z_][a-z0-9_]*$", description="Schema that holds the table.")
    ] = "sojourn"
    timeout_s: Annotated[Seconds, Meta(description="One statement.")] = 5.0


class Accounting(Settings, frozen=True):
    """Where accounting records go; SUCCESS is answered when every sink has stored the record."""

    files: tuple[FileSink, ...] = ()
    syslog: tuple[SyslogSink, ...] = ()
    postgres: tuple[PostgresSink, ...] = ()
    queue_count: Annotated[
        int, Meta(ge=1, description="Records waiting per sink; more is answered with ERROR.")
    ] = 10_000
    timeout_s: Annotated[
        float, Meta(gt=0, description="A record not stored by then is answered with ERROR.")
    ] = 5.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield names and paths that two sinks claim."""
        names = [*(one.name for one in self.files), *(one.name for one in self.syslog)]
        for name, count in Counter((*names, *(one.name for one in self.postgres))).items():
            if count > 1:
                yield "name", f"{count} sinks named {name!r}", "a name of its own for each sink"
        for path, count in Counter(sink.path for sink in self.files).items():
            if count > 1:
                yield "files", f"{count} sinks with path {path!r}", "a path of its own for each file"


class TacacsSettings(Settings, frozen=True):
    """The TACACS+ server, ``[tacacs]``: RFC 8907, and RFC 9887 where a listener has TLS."""

    passwords_file: Annotated[
        str,
        Meta(
            description="JSON file for passwords that users changed themselves (CHPASS); empty = refused.",
            examples=["/var/lib/sojourn/passwords.json"],
        ),
    ] = ""
    limits: LimitSettings = LimitSettings()
    listeners: tuple[ListenerSettings, ...] = ()
    devices: tuple[Device, ...] = ()
    users: tuple[User, ...] = ()
    directories: tuple[Directory, ...] = ()
    rules: tuple[Rule, ...] = ()
    accounting: Accounting = Accounting()
    lockout: Lockout = Lockout()
    seal_key: Annotated[
        Secret | None, Meta(description="Key that unseals users' recoverable secrets (32 bytes, base64).")
    ] = None
    max_length_bytes: Annotated[int, Meta(ge=64, le=16_777_216, description="Largest packet body.")] = 65_536
    max_sessions_per_connection_count: Annotated[
        int, Meta(ge=1, description="Sessions at once on one connection.")
    ] = 1_024
    session_timeout_s: Annotated[float, Meta(gt=0, description="A whole session, prompts included.")] = 180.0
    prompt_timeout_s: Annotated[float, Meta(gt=0, description="One answer of the user.")] = 60.0
    username_prompt: Annotated[str, Meta(description="What ASCII login asks first.")] = "Username: "
    password_prompt: Annotated[str, Meta(description="What ASCII login asks next.")] = "Password: "  # noqa: S105 - a prompt
    username_tries_count: Annotated[
        int, Meta(ge=1, le=10, description="How often an empty user name is asked again.")
    ] = 3
    password_cache_s: Annotated[
        float,
        Meta(
            ge=0,
            description="A password that was right needs no new slow hash for this long; only a keyed digest is "
            "kept, in memory. 0 = off.",
        ),
    ] = 60.0
    min_secret_length_count: Annotated[
        int, Meta(ge=1, description="Shorter device keys are a problem of the configuration.")
    ] = 16
    secret_max_age_days: Annotated[
        int, Meta(ge=0, description="Warn about older device keys; 0 = never.")
    ] = 365

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield ``(key, found, wanted)`` for what only several values together can show to be wrong."""
        # Late: the checks are made of the declarations above.
        from sojourn.gateways.tacacs.checks import find_problems  # noqa: PLC0415 - the line above says why

        return find_problems(self)
