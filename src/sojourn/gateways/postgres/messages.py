"""The vocabulary of PostgreSQL's protocol 3: message types, SQLSTATEs, startup packets, and the refusal of a client.

Knows nothing of bytes, sockets, sessions or time. Types and states are plain ints and strings in small namespaces,
because every message passes by them.

Source: PostgreSQL documentation, "Frontend/Backend Protocol" (message formats) and appendix "Error Codes".
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import msgspec

from sojourn.errors import RemoteProtocolError

MAX_MESSAGE_BYTES = 0x3FFFFFFF
"""Longest message with its length field: one byte less than 1 GiB, PostgreSQL's own limit for one allocation."""
PROTOCOL_MAJOR = 3
NEWEST_MINOR = 2
"""Protocol 3.2 (PostgreSQL 18) differs from 3.0 in cancel keys of more than four bytes; 3.1 was never used."""
MIN_KEY_BYTES = 4
MAX_KEY_BYTES = 256
CANCEL_CODE = 1234 << 16 | 5678
SSL_CODE = 1234 << 16 | 5679
GSSENC_CODE = 1234 << 16 | 5680
OPTION_PREFIX = "_pq_."
"""Startup parameters with this prefix ask for extensions of the protocol, not for settings."""


class Frontend:
    """Types of the messages that a client sends; PASSWORD carries every kind of answer to an authentication."""

    BIND = 0x42  # B
    CLOSE = 0x43  # C
    COPY_DATA = 0x64  # d
    COPY_DONE = 0x63  # c
    COPY_FAIL = 0x66  # f
    DESCRIBE = 0x44  # D
    EXECUTE = 0x45  # E
    FLUSH = 0x48  # H
    FUNCTION_CALL = 0x46  # F
    PARSE = 0x50  # P
    PASSWORD = 0x70  # p
    QUERY = 0x51  # Q
    SYNC = 0x53  # S
    TERMINATE = 0x58  # X


class Backend:
    """Types of the messages that a server sends."""

    AUTHENTICATION = 0x52  # R
    BACKEND_KEY_DATA = 0x4B  # K
    BIND_COMPLETE = 0x32  # 2
    CLOSE_COMPLETE = 0x33  # 3
    COMMAND_COMPLETE = 0x43  # C
    COPY_BOTH_RESPONSE = 0x57  # W
    COPY_DATA = 0x64  # d
    COPY_DONE = 0x63  # c
    COPY_IN_RESPONSE = 0x47  # G
    COPY_OUT_RESPONSE = 0x48  # H
    DATA_ROW = 0x44  # D
    EMPTY_QUERY_RESPONSE = 0x49  # I
    ERROR_RESPONSE = 0x45  # E
    FUNCTION_CALL_RESPONSE = 0x56  # V
    NEGOTIATE_PROTOCOL_VERSION = 0x76  # v
    NO_DATA = 0x6E  # n
    NOTICE_RESPONSE = 0x4E  # N
    NOTIFICATION_RESPONSE = 0x41  # A
    PARAMETER_DESCRIPTION = 0x74  # t
    PARAMETER_STATUS = 0x53  # S
    PARSE_COMPLETE = 0x31  # 1
    PORTAL_SUSPENDED = 0x73  # s
    READY_FOR_QUERY = 0x5A  # Z
    ROW_DESCRIPTION = 0x54  # T


class Authentication:
    """What an Authentication message asks for: its first number."""

    OK = 0
    KERBEROS_V5 = 2
    CLEARTEXT_PASSWORD = 3
    MD5_PASSWORD = 5
    GSS = 7
    GSS_CONTINUE = 8
    SSPI = 9
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


class TransactionStatus:
    """What ReadyForQuery says of the transaction."""

    IDLE = 0x49  # I
    IN_TRANSACTION = 0x54  # T
    FAILED = 0x45  # E


class SQLSTATE:
    """Codes of errors and warnings, by the names of PostgreSQL's appendix or their short forms."""

    SUCCESSFUL_COMPLETION = "00000"
    WARNING = "01000"
    CONNECTION_EXCEPTION = "08000"
    CONNECTION_DOES_NOT_EXIST = "08003"
    CANNOT_CONNECT = "08001"
    CONNECTION_REJECTED = "08004"
    CONNECTION_FAILURE = "08006"
    TRANSACTION_RESOLUTION_UNKNOWN = "08007"
    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    INVALID_PARAMETER_VALUE = "22023"
    ACTIVE_SQL_TRANSACTION = "25001"
    READ_ONLY_SQL_TRANSACTION = "25006"
    NO_ACTIVE_SQL_TRANSACTION = "25P01"
    IN_FAILED_SQL_TRANSACTION = "25P02"
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "25P03"
    TRANSACTION_TIMEOUT = "25P04"
    UNDEFINED_PSTATEMENT = "26000"
    INVALID_AUTHORIZATION = "28000"
    INVALID_PASSWORD = "28P01"  # noqa: S105 - an error code
    UNDEFINED_CURSOR = "34000"
    INVALID_CATALOG_NAME = "3D000"
    TRANSACTION_ROLLBACK = "40000"
    SERIALIZATION_FAILURE = "40001"
    STATEMENT_COMPLETION_UNKNOWN = "40003"
    INSUFFICIENT_PRIVILEGE = "42501"
    SYNTAX = "42601"
    UNDEFINED_OBJECT = "42704"
    DUPLICATE_CURSOR = "42P03"
    DUPLICATE_PSTATEMENT = "42P05"
    INSUFFICIENT_RESOURCES = "53000"
    OUT_OF_MEMORY = "53200"
    TOO_MANY_CONNECTIONS = "53300"
    CONFIGURATION_LIMIT = "53400"
    PROGRAM_LIMIT = "54000"
    OBJECT_NOT_IN_STATE = "55000"
    CANNOT_CHANGE_PARAMETER = "55P02"
    OPERATOR_INTERVENTION = "57000"
    QUERY_CANCELED = "57014"
    ADMIN_SHUTDOWN = "57P01"
    CRASH_SHUTDOWN = "57P02"
    CANNOT_CONNECT_NOW = "57P03"
    DATABASE_DROPPED = "57P04"
    IDLE_SESSION_TIMEOUT = "57P05"
    IO_ERROR = "58030"
    CONFIG_FILE = "F0000"
    INTERNAL_ERROR = "XX000"


class Refusal(RemoteProtocolError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """A client is told no: holds what its ErrorResponse says, and so never a secret.

    Args:
        sqlstate: one of :class:`SQLSTATE`.
        message: the first line that the user reads, in the server's own style: no capital, no full stop.
        detail: more about it.
        hint: what may help.
        severity: ``FATAL`` ends the connection, ``ERROR`` only the statement.
    """

    def __init__(
        self, sqlstate: str, message: str, *, detail: str = "", hint: str = "", severity: str = "FATAL"
    ) -> None:
        super().__init__(message, "what is allowed here", f"SQLSTATE {sqlstate}")
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.severity = severity

    def __str__(self) -> str:
        return f"{self.severity} {self.sqlstate}: {self.message}"


class SSLRequest(msgspec.Struct, gc=False, frozen=True):
    """The client asks for TLS; answered by the single byte ``S`` or ``N``."""


class GSSENCRequest(msgspec.Struct, gc=False, frozen=True):
    """The client asks for GSSAPI encryption; answered by the single byte ``G`` or ``N``."""


class CancelRequest(msgspec.Struct, gc=False, frozen=True):
    """The client asks to cancel what another connection is doing; nothing is ever answered.

    ``key`` is a secret: who knows it may cancel that session's statements.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset({"key"})

    pid: int
    key: bytes

    def __repr__(self) -> str:
        return f"CancelRequest(pid={self.pid}, key=***)"


class StartupMessage(msgspec.Struct, gc=False, frozen=True):
    """The client opens a session: the version it wants, and its parameters in the order in which it sent them.

    A major version other than 3 has no parameters here, because only version 3 says how they are laid out.
    """

    major: int
    minor: int
    parameters: dict[str, str]


StartupPacket = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage
"""What may come first on a connection."""


@cache
def message_names(namespace: type) -> dict[int, str]:
    """Return the documentation's names by type, such as ``{90: "ReadyForQuery"}``."""
    names = {
        number: "".join(word.capitalize() for word in name.split("_"))
        for name, number in vars(namespace).items()
        if name.isupper()
    }
    if namespace is Frontend:
        names[Frontend.PASSWORD] = "PasswordMessage"
    return names


def name_of(namespace: type, number: int) -> str:
    """Return the documentation's name of a number, such as ``"ReadyForQuery"``, or ``"unknown 0x99"``."""
    return message_names(namespace).get(number) or f"unknown {number:#04x}"
