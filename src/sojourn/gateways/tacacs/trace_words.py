"""Entries of the flight recorder in the specification's words, such as ``AuthenReply GETPASS NOECHO 'Password: '``.

Sees what the recorder kept: messages without their secret fields. Commands are shown masked. Knows nothing of sessions
and terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from sojourn.core.recorder import Entry, Leg, summary
from sojourn.gateways.tacacs.masking import shown_request
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
    ReplyFlag,
    Service,
)
from sojourn.gateways.tacacs.policy import Decision
from sojourn.sansio.names import flag_names, name_of

_Fields = dict[str, Any]


def words_of(entry: Entry) -> tuple[str, str]:
    """Return the name of what an entry holds, and one line about it."""
    what = entry[3]
    words = _WORDS.get(type(what))
    if words is None:
        return summary(entry)
    fields = {name: getattr(what, name) for name in what.__struct_fields__}
    return type(what).__name__, " ".join(words(fields))


def decision_leg(decision: Decision) -> Leg:
    """Return what the rules have decided, and why: the reason names the rule."""
    return Leg("rules", "permit" if decision.permit else "deny", decision.reason)


def _start(fields: _Fields) -> Iterator[str]:
    yield name_of(Action, fields["action"])
    yield name_of(AuthenType, fields["authen_type"])
    if fields["service"] != Service.LOGIN:
        yield f"service={name_of(Service, fields['service'])}"
    yield f"priv_lvl={fields['priv_lvl']}"
    yield from _who(fields)


def _authen_reply(fields: _Fields) -> Iterator[str]:
    yield name_of(AuthenStatus, fields["status"])
    if fields["flags"]:
        yield flag_names(ReplyFlag, fields["flags"])
    if fields["server_msg"]:
        yield repr(fields["server_msg"])


def _continue(fields: _Fields) -> Iterator[str]:
    if fields["flags"]:
        yield flag_names(ContinueFlag, fields["flags"])


def _author_request(fields: _Fields) -> Iterator[str]:
    yield from _who(fields)
    yield f"method={name_of(AuthenMethod, fields['authen_method'])}"
    yield from shown_request(fields["args"])


def _author_reply(fields: _Fields) -> Iterator[str]:
    yield name_of(AuthorStatus, fields["status"])
    yield from shown_request(fields["args"])
    if fields["server_msg"]:
        yield repr(fields["server_msg"])


def _acct_request(fields: _Fields) -> Iterator[str]:
    yield name_of(AcctFlag, fields["flags"])
    yield from _who(fields)
    yield from shown_request(fields["args"])


def _acct_reply(fields: _Fields) -> Iterator[str]:
    yield name_of(AcctStatus, fields["status"])
    if fields["server_msg"]:
        yield repr(fields["server_msg"])


def _who(fields: _Fields) -> Iterator[str]:
    for name in ("user", "port", "rem_addr"):
        if fields[name]:
            yield f"{name}={fields[name]}"


_WORDS: Final[dict[type, Callable[[_Fields], Iterator[str]]]] = {
    AuthenStart: _start,
    AuthenReply: _authen_reply,
    AuthenContinue: _continue,
    AuthorRequest: _author_request,
    AuthorReply: _author_reply,
    AcctRequest: _acct_request,
    AcctReply: _acct_reply,
}
