"""A trace speaks the specification's language and holds no secret."""

from __future__ import annotations

import pytest

from sojourn.core.recorder import Direction, redactor_for
from sojourn.gateways.tacacs.messages import (
    AcctFlag,
    AcctReply,
    AcctRequest,
    AcctStatus,
    Action,
    AuthenContinue,
    AuthenMethod,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthenType,
    AuthorReply,
    AuthorRequest,
    AuthorStatus,
    ContinueFlag,
    Message,
    ReplyFlag,
    Service,
)
from sojourn.gateways.tacacs.trace_words import words_of

ARGS = ("service=shell", "cmd=enable", "cmd-arg=secret", "cmd-arg=hunter2", "cmd-arg=<cr>")
REQUEST = (AuthenMethod.TACACSPLUS, 15, AuthenType.ASCII, Service.LOGIN, "ana", "tty0", "192.0.2.1", ARGS)
WORDS: list[tuple[Message, str]] = [
    (
        AuthenStart(
            Action.LOGIN, 1, AuthenType.PAP, Service.LOGIN, "ana", "tty0", "192.0.2.1", data=b"hunter2"
        ),
        "LOGIN PAP priv_lvl=1 user=ana port=tty0 rem_addr=192.0.2.1",
    ),
    (
        AuthenStart(Action.LOGIN, 15, AuthenType.ASCII, Service.ENABLE),
        "LOGIN ASCII service=ENABLE priv_lvl=15",
    ),
    (AuthenReply(AuthenStatus.GETPASS, ReplyFlag.NOECHO, "Password: "), "GETPASS NOECHO 'Password: '"),
    (AuthenReply(AuthenStatus.PASS), "PASS"),
    (AuthenContinue(b"hunter2"), ""),
    (AuthenContinue(b"", b"hunter2", ContinueFlag.ABORT), "ABORT"),
    (
        AuthorRequest(*REQUEST),
        "user=ana port=tty0 rem_addr=192.0.2.1 method=TACACSPLUS service=shell cmd=enable secret ***",
    ),
    (AuthorReply(AuthorStatus.PASS_ADD, ("priv-lvl=15",), "hello"), "PASS_ADD priv-lvl=15 'hello'"),
    (
        AcctRequest(AcctFlag.STOP, *REQUEST),
        "STOP user=ana port=tty0 rem_addr=192.0.2.1 service=shell cmd=enable secret ***",
    ),
    (AcctReply(AcctStatus.SUCCESS), "SUCCESS"),
    (AcctReply(AcctStatus.ERROR, "full"), "ERROR 'full'"),
]


@pytest.mark.parametrize(("message", "text"), WORDS, ids=lambda value: type(value).__name__)
def test_a_message_is_told_in_words(message: Message, text: str) -> None:
    """What the recorder kept, names instead of numbers."""
    redact = redactor_for(type(message))
    kept = message if redact is None else redact(message)
    name, words = words_of((1.0, Direction.IN, 20, kept))
    assert (name, words) == (type(message).__name__, text)


def test_a_note_is_told_as_it_is() -> None:
    """State changes and errors are texts already."""
    assert words_of((1.0, Direction.STATE, 0, "late answer")) == ("late answer", "")
