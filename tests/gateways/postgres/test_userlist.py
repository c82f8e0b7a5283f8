"""PgBouncer's user list: what is read, and which lines are refused without showing them."""

from __future__ import annotations

import pytest

from sojourn.errors import ConfigError
from sojourn.gateways.postgres.scram import derive_keys
from sojourn.gateways.postgres.userlist import parse_userlist

VERIFIER = derive_keys(b"pencil", b"0123456789abcdef", 4096).verifier.text()


def read(text):
    return {user: secret.reveal() for user, secret in parse_userlist(text, "userlist.txt").items()}


def test_users_and_their_secrets_of_each_kind_are_read():
    """PgBouncer, Authentication file format."""
    hashed = "md5" + "0" * 32
    text = f'; ours\n\n"ana" "pencil"\n  "bob"\t"{hashed}"\r\n"cy" "{VERIFIER}" "" left alone\n"dan" ""\n'
    assert read(text) == {"ana": "pencil", "bob": hashed, "cy": VERIFIER, "dan": ""}


def test_a_double_quote_inside_is_written_twice():
    """PgBouncer, Authentication file format."""
    assert read('"a""b" "c""""d;e"\n') == {'a"b': 'c""d;e'}
    assert read('"ana" "x\u2028y"') == {"ana": "x\u2028y"}


def test_the_last_line_of_a_user_counts():
    """As PgBouncer reads it."""
    assert read('"ana" "old"\n"ana" "new"\n') == {"ana": "new"}


def test_every_line_that_cannot_be_read_is_named_and_none_is_shown():
    """A problem never holds a secret."""
    text = (
        '"ana" "fine"\nana "hidden"\n"bob" "hidden\n"bob"\n"bob" x "hidden"\n"" "hidden"\n'
        '"cy" "SCRAM-SHA-256$hidden"\n# "hidden" "hidden"\n'
    )
    with pytest.raises(ConfigError) as caught:
        parse_userlist(text, "userlist.txt")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4, 5, 6, 7, 8]
    assert "hidden" not in str(caught.value)
    assert "hidden" not in repr(parse_userlist('"ana" "hidden"', "userlist.txt"))
