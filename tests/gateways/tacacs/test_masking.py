"""Secrets that somebody types into a command are never shown."""

from __future__ import annotations

import pytest

from sojourn.gateways.tacacs.masking import mask_args, mask_line, shown_request

LINES = [
    ("show version", "show version"),
    ("username bob password 0 hunter2", "username bob password 0 ***"),
    ("username bob privilege 15 secret 9 $9$abc", "username bob privilege 15 secret 9 ***"),
    ("enable secret hunter2", "enable secret ***"),
    ("enable secret level 15 5 $1$x", "enable secret *** *** *** ***"),
    ("snmp-server community hunter2 RO", "snmp-server community *** ***"),
    ("tacacs-server key two words <cr>", "tacacs-server key *** *** <cr>"),
    ("ip ospf message-digest-key 1 md5 hunter2", "ip ospf message-digest-key 1 md5 ***"),
    ("crypto isakmp key hunter2 address 192.0.2.1", "crypto isakmp key *** *** ***"),
    ("key-string 7 0822455D0A16", "key-string 7 ***"),
    ("snmp-server user u g v3 auth sha hunter2 priv aes 128 hunter3", "snmp-server user u g v3 auth sha"),
    ("neighbor 192.0.2.1 PASSWORD hunter2", "neighbor 192.0.2.1 PASSWORD ***"),
    ('set system root-authentication encrypted-password "x"', "encrypted-password ***"),
    ("set pre-shared-key ascii-text hunter2", "set pre-shared-key ascii-text ***"),
    ("/ppp secret add name=bob password=hunter2", "/ppp secret ***"),
    ("copy scp://bob:hunter2@192.0.2.1/x flash:", "copy scp://bob:***@192.0.2.1/x flash:"),
    ("set password=hunter2 x", "set password=*** ***"),
    ("show interfaces", "show interfaces"),
    ("password", "password"),
    ("password 7", "password 7"),
    ("", ""),
]


@pytest.mark.parametrize(("line", "shown"), LINES)
def test_what_follows_a_secret_word_is_masked(line: str, shown: str) -> None:
    """All behind the word, except how the secret is written and the closing <cr>."""
    masked = mask_line(line)
    assert shown in masked
    assert "hunter" not in masked
    assert len(masked.split(" ")) == len(line.split(" "))


def test_the_words_of_a_command_lie_in_several_arguments() -> None:
    """RFC 8907 section 6.1: cmd and its cmd-args are one command; their number stays."""
    args = (
        "service=shell",
        "cmd=username",
        "cmd-arg=bob",
        "cmd-arg=password",
        "cmd-arg=7",
        "cmd-arg=a b",
        "cmd-arg=<cr>",
    )
    assert mask_args(args) == (*args[:5], "cmd-arg=*** ***", "cmd-arg=<cr>")
    assert mask_args(("cmd=enable secret x <cr>",)) == ("cmd=enable secret *** <cr>",)


def test_a_pair_whose_name_says_secret_is_masked() -> None:
    """Other pairs are shown, whatever a command beside them holds."""
    args = ("tunnel-password*x", "key=", "cmd=password", "cmd-arg=x", "addr=192.0.2.1", "bare")
    assert mask_args(args) == (
        "tunnel-password****",
        "key=",
        "cmd=password",
        "cmd-arg=***",
        "addr=192.0.2.1",
        "bare",
    )


def test_a_request_is_shown_as_people_write_it() -> None:
    """One cmd with its words in the place of the first, without <cr>; the other pairs in their order."""
    args = ("service=shell", "cmd=show", "cmd-arg=version", "cmd-arg=<cr>", "x*y")
    assert shown_request(args) == ["service=shell", "cmd=show version", "x*y"]
    assert shown_request(("cmd-arg=lost", "cmd=", "cmd=second")) == ["cmd-arg=lost", "cmd=", "cmd=second"]
    assert shown_request(()) == []
