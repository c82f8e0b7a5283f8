"""The vocabulary of TACACS+: the numbers it uses and the messages it exchanges, as plain values.

Knows nothing of bytes, keys, sessions or time. Numbers are plain ints in small namespaces, because turning
one into an enumeration costs more than creating the whole message (228 ns against 41 ns). A number outside
its namespace is a legal value here: what to answer to it is for the session to decide.

Source: RFC 8907 sections 4.1, 5.1 to 5.3, 6.1, 6.2, 7.1 and 7.2; RFC 9887 section 3.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

MASK = "***"
"""What is shown in the place of a secret field; it does not tell the length."""


class Version:
    """Protocol versions: major version 12 in the upper four bits, the minor version in the lower four."""

    MAJOR = 0xC
    DEFAULT = 0xC0
    ONE = 0xC1


class PacketType:
    """What a session is about; header field ``type``."""

    AUTHEN = 1
    AUTHOR = 2
    ACCT = 3


class Flag:
    """Bits of the header field ``flags``; all others are ignored on reading and 0 on writing."""

    UNENCRYPTED = 0x01
    SINGLE_CONNECT = 0x04


class Action:
    """What an authentication START asks for; SENDAUTH is historic and never carried out."""

    LOGIN = 1
    CHPASS = 2
    SENDAUTH = 4


class AuthenType:
    """How the user proves who they are; NOT_SET is for authorization and accounting only."""

    NOT_SET = 0
    ASCII = 1
    PAP = 2
    CHAP = 3
    MSCHAP = 5
    MSCHAPV2 = 6


class Service:
    """The service that the user asks the device for; header of every request."""

    NONE = 0
    LOGIN = 1
    ENABLE = 2
    PPP = 3
    PT = 5
    RCMD = 6
    X25 = 7
    NASI = 8
    FWPROXY = 9


class AuthenStatus:
    """Where an authentication stands; FOLLOW is historic and never sent."""

    PASS = 1
    FAIL = 2
    GETDATA = 3
    GETUSER = 4
    GETPASS = 5
    RESTART = 6
    ERROR = 7
    FOLLOW = 0x21


class AuthenMethod:
    """How the device says that it authenticated the user; a claim that no policy may rest on."""

    NOT_SET = 0
    NONE = 1
    KRB5 = 2
    LINE = 3
    ENABLE = 4
    LOCAL = 5
    TACACSPLUS = 6
    GUEST = 8
    RADIUS = 0x10
    KRB4 = 0x11
    RCMD = 0x20


class AuthorStatus:
    """The answer to an authorization request; FOLLOW is historic and never sent."""

    PASS_ADD = 1
    PASS_REPL = 2
    FAIL = 0x10
    ERROR = 0x11
    FOLLOW = 0x21


class AcctFlag:
    """Bits that say which kind of record an accounting request is."""

    START = 0x02
    STOP = 0x04
    WATCHDOG = 0x08
    WATCHDOG_UPDATE = 0x0A


class AcctStatus:
    """The answer to an accounting request; FOLLOW is historic and never sent."""

    SUCCESS = 1
    ERROR = 2
    FOLLOW = 0x21


class ReplyFlag:
    """Bits of an authentication REPLY."""

    NOECHO = 0x01


class ContinueFlag:
    """Bits of an authentication CONTINUE."""

    ABORT = 0x01


class Message(msgspec.Struct, gc=False):
    """What all messages share: a text form that never shows a secret field.

    ``secret_fields`` names the fields that may hold a password or a proof of one; everything that shows,
    logs or records messages leaves them out.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset()

    def shown_fields(self) -> dict[str, object]:
        """Return the fields in order, with :data:`MASK` for each secret one that is not empty."""
        shown: dict[str, object] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            shown[name] = MASK if value and name in self.secret_fields else value
        return shown

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}={MASK if name in self.secret_fields and value == MASK else repr(value)}"
            for name, value in self.shown_fields().items()
        )
        return f"{type(self).__name__}({fields})"


class AuthenStart(Message, gc=False):
    """The client opens an authentication (RFC 8907 section 5.1).

    ``data`` is a password or a response to a challenge, or nothing.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset({"data"})

    action: int
    priv_lvl: int
    authen_type: int
    service: int
    user: str = ""
    port: str = ""
    rem_addr: str = ""
    data: bytes = b""


class AuthenReply(Message, gc=False):
    """The server's verdict or question (RFC 8907 section 5.2); nothing that we put into it is secret."""

    status: int
    flags: int = 0
    server_msg: str = ""
    data: bytes = b""


class AuthenContinue(Message, gc=False):
    """The client's answer to a question, or its ABORT (RFC 8907 section 5.3).

    ``user_msg`` is what the user typed; in an ABORT ``data`` may say why.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset({"user_msg", "data"})

    user_msg: bytes
    data: bytes = b""
    flags: int = 0

    def redacted(self) -> AuthenContinue:
        """Return what the flight recorder keeps: that there was an answer, or an ABORT; the same one for all."""
        return _SHOWN_ABORT if self.flags & ContinueFlag.ABORT else _SHOWN_CONTINUE


_SHOWN_CONTINUE: Final = AuthenContinue(b"")
_SHOWN_ABORT: Final = AuthenContinue(b"", b"", ContinueFlag.ABORT)


class AuthorRequest(Message, gc=False):
    """The client asks what the user may do (RFC 8907 section 6.1)."""

    authen_method: int
    priv_lvl: int
    authen_type: int
    service: int
    user: str = ""
    port: str = ""
    rem_addr: str = ""
    args: tuple[str, ...] = ()


class AuthorReply(Message, gc=False):
    """The server's decision (RFC 8907 section 6.2); ``data`` is a note for the device's administrator."""

    status: int
    args: tuple[str, ...] = ()
    server_msg: str = ""
    data: str = ""


class AcctRequest(Message, gc=False):
    """The client hands in an accounting record (RFC 8907 section 7.1)."""

    flags: int
    authen_method: int
    priv_lvl: int
    authen_type: int
    service: int
    user: str = ""
    port: str = ""
    rem_addr: str = ""
    args: tuple[str, ...] = ()


class AcctReply(Message, gc=False):
    """The server says whether the record is stored (RFC 8907 section 7.2)."""

    status: int
    server_msg: str = ""
    data: str = ""
