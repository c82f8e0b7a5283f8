"""What the server decides: who may log in, who may do what, and when a record counts as stored.

Each handler takes one request and finishes its session; it reads like the section of RFC 8907 that it implements.
Hot paths (PAP, authorization) run inline; what waits for a hash, a directory, a user or a sink has a task.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Final

from sojourn.core.events import EventKind
from sojourn.core.recorder import Direction, Leg
from sojourn.core.router import Router
from sojourn.errors import SojournError, WireError
from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.login_state import ERROR, FAIL, PASS, Verdict
from sojourn.gateways.tacacs.masking import mask_args
from sojourn.gateways.tacacs.messages import (
    AcctFlag,
    AcctReply,
    AcctRequest,
    AcctStatus,
    Action,
    AuthenMethod,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthenType,
    AuthorReply,
    AuthorRequest,
    AuthorStatus,
    Service,
)
from sojourn.gateways.tacacs.policy import Query, service_of
from sojourn.gateways.tacacs.session import TacacsSession, constant
from sojourn.gateways.tacacs.users import LOCAL_USERS
from sojourn.sansio.names import name_of

router: Final = Router()

AUTHENTICATED: Final = EventKind(
    "tacacs.authentication", ("outcome", "user", "device", "rem_addr", "method", "reason"), level="info"
)
AUTHORIZED: Final = EventKind(
    "tacacs.authorization",
    ("outcome", "user", "device", "rem_addr", "request", "rule", "reason"),
    level="info",
)
ACCOUNTED: Final = EventKind(
    "tacacs.accounting", ("outcome", "user", "device", "rem_addr", "kind", "reason"), level="info"
)

OUTCOMES: Final = {PASS: "pass", FAIL: "fail", ERROR: "error"}
DENIED_TEXT: Final = "Authentication failed."
"""Says nothing of why: an unknown user and a wrong password look alike."""

_REPLIES: Final = {
    PASS: constant(AuthenReply(AuthenStatus.PASS)),
    FAIL: constant(AuthenReply(AuthenStatus.FAIL, 0, DENIED_TEXT)),
    ERROR: constant(AuthenReply(AuthenStatus.ERROR)),
}
_PASS: Final = _REPLIES[PASS]
_UNCHANGED: Final = constant(AuthorReply(AuthorStatus.PASS_ADD))
_RESTART: Final = AuthenReply(AuthenStatus.RESTART)

_TYPE_NAMES: Final = {
    AuthenType.ASCII: "ascii",
    AuthenType.PAP: "pap",
    AuthenType.CHAP: "chap",
    AuthenType.MSCHAP: "mschap",
    AuthenType.MSCHAPV2: "mschapv2",
}
_SERVICES: Final = frozenset(vars(Service)[name] for name in vars(Service) if name.isupper())
_METHODS: Final = frozenset(vars(AuthenMethod)[name] for name in vars(AuthenMethod) if name.isupper())
_REQUEST_TYPES: Final = frozenset({AuthenType.NOT_SET, *_TYPE_NAMES})
_KINDS: Final = {
    AcctFlag.START: "start",
    AcctFlag.STOP: "stop",
    AcctFlag.WATCHDOG: "watchdog",
    AcctFlag.WATCHDOG_UPDATE: "update",
}
_MAX_PRIV_LVL: Final = 15
_LOCK_OUT: Final = "lock-out"
_REMEMBERED: Final = Leg(LOCAL_USERS, "pass", "verified a moment ago")
"""Put into traces as it is, at the connection's last look at the clock: a third of what ``note_received`` costs."""
_IN: Final = Direction.IN
_UNDEFINED: Final = Verdict(ERROR, "a header value that RFC 8907 does not define")


# Authentication, RFC 8907 section 5


def _objection(session: TacacsSession, start: AuthenStart) -> AuthenReply | None:
    """Return the reply to a START that is not to be carried out at all, or None.

    RFC 8907 says both ERROR (3.6) and FAIL (5.4.2) for what is not supported. Here: undefined values are ERROR, what
    the device's policy forbids is RESTART, so that the device may try another type.
    """
    if start.service not in _SERVICES or start.priv_lvl > _MAX_PRIV_LVL:
        _decided(session, start, _UNDEFINED)
        return _REPLIES[ERROR]
    if _TYPE_NAMES[start.authen_type] not in session.device.authen_types:
        _decided(session, start, Verdict(FAIL, "authentication type not allowed for this device"))
        return _RESTART
    return None


def _decided(session: TacacsSession, start: AuthenStart, verdict: Verdict, user: str = "") -> None:
    """Tell what was decided and why."""
    user = user or start.user
    session.about = user
    session.config.emit(
        AUTHENTICATED,
        session,
        OUTCOMES[verdict.outcome],
        user,
        session.device.name,
        start.rem_addr,
        _TYPE_NAMES.get(start.authen_type, "undefined"),
        verdict.reason,
    )


async def _checked(session: TacacsSession, party: str, what: str, check: Awaitable[Verdict]) -> Verdict:
    """Wait for what ``party`` makes of a password, and put both into the trace."""
    session.note_sent(party, what)
    verdict = await check
    is_error = verdict.outcome == ERROR
    session.note_received(party, OUTCOMES[verdict.outcome], verdict.reason, is_error=is_error)
    if verdict.lock_out:
        session.note_received(_LOCK_OUT, verdict.lock_out)
    return verdict


def _finish(session: TacacsSession, start: AuthenStart, verdict: Verdict, user: str = "") -> None:
    _decided(session, start, verdict, user)
    session.finish(_REPLIES[verdict.outcome])


@router.on(AuthenStart, action=Action.LOGIN, authen_type=AuthenType.PAP)
def pap_login(session: TacacsSession, start: AuthenStart) -> Awaitable[None] | None:
    """RFC 8907 section 5.4.2.2: one START with the password, one verdict; inline if it was verified a moment ago."""
    if (
        start.service == Service.LOGIN
        and start.priv_lvl <= _MAX_PRIV_LVL
        and "pap" in session.device.authen_types
    ):
        verdict = session.config.users.check_password_now(start.user, start.data)
        if verdict is not None:  # said and told without the calls of _finish: worth 0.2 us of a login
            session.about = start.user
            trace = session.trace
            if trace is not None:
                trace.append((session.connection.now, _IN, 0, _REMEMBERED))
            session.config.emit(
                AUTHENTICATED,
                session,
                "pass",
                start.user,
                session.device.name,
                start.rem_addr,
                "pap",
                verdict.reason,
            )
            session.finish(_PASS)
            return None
    objection = _objection(session, start)
    if objection is not None:
        session.finish(objection)
        return None
    return _slow_pap_login(session, start)


async def _slow_pap_login(session: TacacsSession, start: AuthenStart) -> None:
    users, user = session.config.users, start.user
    if start.service == Service.ENABLE:
        verdict = await _check_enable(session, user, start, start.data)
    else:
        check = users.check_password(user, start.data)
        verdict = await _checked(session, users.backend_of(user), "check password", check)
    _finish(session, start, verdict)


def _check_enable(
    session: TacacsSession, user: str, start: AuthenStart, password: bytes
) -> Awaitable[Verdict]:
    check = session.config.users.check_enable(user, start.priv_lvl, password)
    return _checked(session, LOCAL_USERS, f"check ENABLE password, level {start.priv_lvl}", check)


@router.conversation(AuthenStart, action=Action.LOGIN, authen_type=AuthenType.ASCII)
async def ascii_login(session: TacacsSession, start: AuthenStart) -> None:
    """RFC 8907 sections 5.4.2.1 and 5.4.2.6: ask for what is missing, then decide once; ENABLE asks likewise."""
    objection = _objection(session, start)
    if objection is not None:
        session.finish(objection)
        return
    settings, users = session.config.settings, session.config.users
    user = start.user or await _ask_for_user(session)
    if not user:
        _finish(session, start, Verdict(FAIL, "no user name was given"))
        return
    session.about = user
    if start.data and "password-in-start-data" in session.device.quirks:
        password = start.data
    else:
        password = await session.ask_user(AuthenStatus.GETPASS, settings.password_prompt, echo=False)
    if start.service == Service.ENABLE:
        verdict = await _check_enable(session, user, start, password)
    else:
        code = None
        if users.needs_otp_prompt(user):
            code = await session.ask_user(AuthenStatus.GETDATA, "One-time code: ", echo=False)
        known = users.check_password_now(user, password)
        trace = session.trace
        if known is not None and trace is not None:
            trace.append((session.connection.now, _IN, 0, _REMEMBERED))
        verdict = known or await _checked(
            session,
            users.backend_of(user),
            "check password" if code is None else "check password and one-time code",
            users.check_password(user, password, otp=code),
        )
    _finish(session, start, verdict, user)


async def _ask_for_user(session: TacacsSession) -> str:
    settings = session.config.settings
    for _ in range(settings.username_tries_count):
        typed = await session.ask_user(AuthenStatus.GETUSER, settings.username_prompt)
        user = typed.decode("utf-8", "replace").strip()
        if user:
            return user
    return ""


@router.conversation(AuthenStart, action=Action.CHPASS, authen_type=AuthenType.ASCII)
async def change_password(session: TacacsSession, start: AuthenStart) -> None:
    """RFC 8907 section 5.4.2.7: the old password by GETDATA, the new one by GETPASS, twice."""
    objection = _objection(session, start)
    if objection is not None:
        session.finish(objection)
        return
    user = start.user or await _ask_for_user(session)
    if not user:
        _finish(session, start, Verdict(FAIL, "no user name was given"))
        return
    session.about = user
    old = await session.ask_user(AuthenStatus.GETDATA, "Old password: ", echo=False)
    new = await session.ask_user(AuthenStatus.GETPASS, "New password: ", echo=False)
    again = await session.ask_user(AuthenStatus.GETPASS, "New password again: ", echo=False)
    if new != again:
        verdict = Verdict(FAIL, "the new password was typed in two ways")
    else:
        users = session.config.users
        change = users.change_password(user, old, new)
        verdict = await _checked(session, users.backend_of(user), "change password", change)
    _finish(session, start, verdict, user)


@router.on(AuthenStart, action=Action.LOGIN, authen_type=AuthenType.CHAP)
def chap_login(session: TacacsSession, start: AuthenStart) -> None:
    """RFC 8907 section 5.4.2.3: challenge and response come together."""
    _challenge_login(session, start)


@router.on(AuthenStart, action=Action.LOGIN, authen_type=AuthenType.MSCHAP)
def mschap_v1_login(session: TacacsSession, start: AuthenStart) -> None:
    """RFC 8907 section 5.4.2.4."""
    _challenge_login(session, start)


@router.on(AuthenStart, action=Action.LOGIN, authen_type=AuthenType.MSCHAPV2)
def mschap_v2_login(session: TacacsSession, start: AuthenStart) -> None:
    """RFC 8907 section 5.4.2.5."""
    _challenge_login(session, start)


def _challenge_login(session: TacacsSession, start: AuthenStart) -> None:
    objection = _objection(session, start)
    if objection is not None:
        session.finish(objection)
        return
    if start.service == Service.ENABLE:
        # The challenge proves the login secret; the ENABLE password is another one, kept as a hash alone.
        _finish(session, start, Verdict(FAIL, "ENABLE with a challenge is not supported"))
        return
    user, data, kind = start.user, start.data, start.authen_type

    def explains(secret: bytes) -> bool:
        if kind == AuthenType.CHAP:
            return mschap.verify_chap(data, secret)
        if kind == AuthenType.MSCHAP:
            return mschap.verify_mschap_v1(data, secret)
        return mschap.verify_mschap_v2(data, user, secret)

    try:
        verdict = session.config.users.check_challenge(user, explains)
    except WireError as error:
        # The response is the user's: an ERROR would let anybody at a dial-in make the device give us up for dead.
        verdict = Verdict(FAIL, str(error))
    session.note_received(LOCAL_USERS, OUTCOMES[verdict.outcome], verdict.reason)
    if verdict.lock_out:
        session.note_received(_LOCK_OUT, verdict.lock_out)
    _finish(session, start, verdict)


@router.on(AuthenStart)
def unusual_start(session: TacacsSession, start: AuthenStart) -> None:
    """Answer what no flow of section 5.4.2 covers: FAIL if it is defined, ERROR for SENDAUTH and undefined values."""
    is_defined = start.action in (Action.LOGIN, Action.CHPASS) and start.authen_type in _TYPE_NAMES
    what = f"{name_of(Action, start.action)} with {name_of(AuthenType, start.authen_type)} is not supported"
    _finish(session, start, Verdict(FAIL if is_defined else ERROR, what))


# Authorization, RFC 8907 section 6


@router.on(AuthorRequest)
def authorize(session: TacacsSession, request: AuthorRequest) -> None:
    """RFC 8907 section 6: exactly one pair of packets; ``authen_method`` is a claim and decides nothing."""
    config = session.config
    device = session.device
    user, args = request.user, request.args
    session.about = user
    service, shown = config.known.get(id(request)) or (service_of(args), mask_args(args))
    if not _is_defined(request):
        _authorized(session, request, shown, "error", "(none)", _UNDEFINED.reason)
        session.finish(AuthorReply(AuthorStatus.ERROR))
        return
    groups = config.users.standing(user)
    if groups is None:
        session.note_received(LOCAL_USERS, "deny", "unknown, disabled or expired user")
        _authorized(session, request, shown, "deny", "(none)", "unknown, disabled or expired user")
        session.finish(AuthorReply(AuthorStatus.FAIL))
        return
    decision = config.policy.decide(
        Query(
            user,
            groups,
            device.name,
            device.groups,
            request.port,
            request.rem_addr,
            service,
            args,
        )
    )
    if session.trace is not None:
        session.trace.append((session.connection.now, _IN, 0, decision))  # words are made when looked at
    outcome = "permit" if decision.permit else "deny"
    _authorized(session, request, shown, outcome, decision.rule, decision.reason)
    if decision.status == _UNCHANGED.status and not decision.args and not decision.message:
        session.finish(_UNCHANGED)  # the answer to most commands
    else:
        session.finish(AuthorReply(decision.status, decision.args, decision.message))


def _authorized(  # noqa: PLR0917 - the hot path; keywords cost 0.1 us
    session: TacacsSession,
    request: AuthorRequest,
    shown: tuple[str, ...],
    outcome: str,
    rule: str,
    reason: str,
) -> None:
    session.config.emit(
        AUTHORIZED,
        session,
        outcome,
        request.user,
        session.device.name,
        request.rem_addr,
        shown,
        rule,
        reason,
    )


def _is_defined(request: AuthorRequest | AcctRequest) -> bool:
    return (
        request.authen_method in _METHODS
        and request.authen_type in _REQUEST_TYPES
        and request.service in _SERVICES
        and request.priv_lvl <= _MAX_PRIV_LVL
    )


# Accounting, RFC 8907 section 7


@router.on(AcctRequest)
async def account(session: TacacsSession, request: AcctRequest) -> None:
    """RFC 8907 section 7: SUCCESS only after every sink has stored the record."""
    config = session.config
    session.about = request.user
    kind = _KINDS.get(request.flags)
    if kind is None or not _is_defined(request):
        _accounted(session, request, "error", _UNDEFINED.reason)
        session.finish(AcctReply(AcctStatus.ERROR))
        return
    record = config.records.make(
        request,
        device=session.device.name,
        device_address=session.connection.peer.address,
        session_id=session.key,
    )
    for name in config.accounting.names:
        session.note_sent(f"sink {name}", "record", kind)
    told = partial(_told_by_sink, session, session.connection.clock())
    try:
        await config.accounting.store(record, told)
    except SojournError as error:
        _accounted(session, request, "error", str(error))
        session.finish(AcctReply(AcctStatus.ERROR))
        return
    _accounted(session, request, "success", "stored")
    session.finish(AcctReply(AcctStatus.SUCCESS))


def _told_by_sink(session: TacacsSession, began: float, name: str, error: SojournError | None) -> None:
    """Put into the trace what a sink has made of the record; after the answer nobody asks any more."""
    if not session.ended:
        words = "stored" if error is None else str(error)
        after_ms = (session.connection.clock() - began) * 1000
        is_error = error is not None
        session.note_received(f"sink {name}", words, f"after {after_ms:.1f} ms", is_error=is_error)


def _accounted(session: TacacsSession, request: AcctRequest, outcome: str, reason: str) -> None:
    session.config.emit(
        ACCOUNTED,
        session,
        outcome,
        request.user,
        session.device.name,
        request.rem_addr,
        _KINDS.get(request.flags, "undefined"),
        reason,
    )
