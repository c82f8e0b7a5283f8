"""The vocabulary: names as in the documentation, refusals that say what the client reads."""

from __future__ import annotations

import pytest

from sojourn.errors import RemoteProtocolError
from sojourn.gateways.postgres.messages import (
    SQLSTATE,
    Backend,
    CancelRequest,
    Frontend,
    Refusal,
    TransactionStatus,
    message_names,
    name_of,
)


@pytest.mark.parametrize(
    ("namespace", "letter", "name"),
    [
        (Backend, "Z", "ReadyForQuery"),
        (Backend, "K", "BackendKeyData"),
        (Backend, "D", "DataRow"),
        (Backend, "v", "NegotiateProtocolVersion"),
        (Frontend, "D", "Describe"),
        (Frontend, "p", "PasswordMessage"),
        (Backend, "?", "unknown 0x3f"),
    ],
)
def test_a_type_is_named_as_the_documentation_names_it(namespace, letter, name):
    """PostgreSQL documentation, "Message Formats": one letter has another name in each direction."""
    assert name_of(namespace, ord(letter)) == name


@pytest.mark.parametrize(
    ("namespace", "letters"), [(Frontend, "BCDEFHPQSXcdfp"), (Backend, "123ACDEGHIKNRSTVWZcdnstv")]
)
def test_every_type_of_protocol_3_is_there(namespace, letters):
    """PostgreSQL documentation, "Message Formats": all messages with a type byte."""
    assert "".join(sorted(map(chr, message_names(namespace)))) == letters


def test_every_sqlstate_has_five_characters_and_one_name():
    """PostgreSQL documentation, appendix "Error Codes"."""
    codes = [code for name, code in vars(SQLSTATE).items() if name.isupper()]
    assert all(len(code) == 5 and code.isalnum() for code in codes)
    assert len(set(codes)) == len(codes)


def test_a_refusal_holds_what_the_client_is_told():
    """It is an error of the remote side, and its text is that of the ErrorResponse."""
    refusal = Refusal(SQLSTATE.TOO_MANY_CONNECTIONS, "sorry, too many clients already", hint="Wait.")
    assert isinstance(refusal, RemoteProtocolError)
    assert (refusal.severity, refusal.detail, refusal.hint) == ("FATAL", "", "Wait.")
    assert str(refusal) == "FATAL 53300: sorry, too many clients already"


def test_a_cancel_key_does_not_show():
    """Who knows the key may cancel that session's statements."""
    assert "secr" not in repr(CancelRequest(7, b"secr"))


def test_statuses_are_their_letters():
    """PostgreSQL documentation, ReadyForQuery."""
    states = (TransactionStatus.IDLE, TransactionStatus.IN_TRANSACTION, TransactionStatus.FAILED)
    assert bytes(states) == b"ITE"
