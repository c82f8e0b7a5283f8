"""What becomes of a request whose server is lost: the table of what may be retried, as data.

``decide`` takes the facts of one loss and finds the first row of ``TABLE`` that applies; the engine does what it
says, counts it under the row's ``situation`` and logs the row's ``reason``. Knows no sockets and no clock, and does
not find out facts.
Source: postgres-proxy.md section 6.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from sojourn.gateways.postgres.messages import SQLSTATE, Refusal, TransactionStatus
from sojourn.gateways.postgres.replies import Entry


class Action:
    """What the engine does; the words appear in logs, metrics and the console."""

    WAIT_AND_SEND: Final = "wait_and_send"
    """Wait for a server, rebuild the session's state there, send the request as it was kept."""
    REBUILD_AND_SEND: Final = "rebuild_and_send"
    OTHER_SERVER: Final = "other_server"
    """As WAIT_AND_SEND, at a server that takes it: the primary, or one that has finished its start."""
    REPLAY_AND_CONTINUE: Final = "replay_and_continue"
    """Send BEGIN and SET LOCAL again without showing their answers again, then what is still unanswered."""
    REPEAT: Final = "repeat"
    """Send the request again; in a transaction its BEGIN and SET LOCAL first, without showing their answers again."""
    REPLAY_VERIFIED: Final = "replay_verified"
    """Run the transaction again elsewhere and compare every answer; then do what :func:`replayed` says."""
    END_REQUEST: Final = "end_request"
    """Send the ReadyForQuery that is missing, and nothing else."""
    ANSWER_COMMIT: Final = "answer_commit"
    ANSWER_ROLLBACK: Final = "answer_rollback"
    FAIL_40001: Final = "fail_40001"
    """Answer with the error; if no request waits for an answer, keep the error for the next one."""
    FAIL_08007: Final = "fail_08007"
    RESOLVE_COMMIT: Final = "resolve_commit"
    """Ask the new primary for the transaction's status, then do what :func:`resolved` says."""
    DRAIN_COPY_AND_FAIL: Final = "drain_copy_and_fail"
    """Answer with the error and swallow the client's data up to CopyDone or CopyFail."""
    REBUILD_SILENTLY: Final = "rebuild_silently"
    WARN_OR_CLOSE: Final = "warn_or_close"
    """By policy: rebuild what can be rebuilt and name the rest in a warning, or close; see :func:`loss_report`."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """The facts when a server is lost under a client, about the oldest request without its ReadyForQuery.

    A request is one Query, or everything up to one Sync. Each request of a pipeline is decided by itself, in order.
    Where a fact is not known, the engine sets what forbids more: a write is possible, the state is not restorable.

    Units: ``bytes_written_count`` counts bytes of this request that were written to the server's socket.
    """

    is_idle: bool = False
    """No request, and outside a transaction."""
    is_restorable: bool = True
    """Everything that the session holds on its server can be made again elsewhere."""
    is_answered: bool = False
    """The client was told that the request failed; only its ReadyForQuery is missing."""
    bytes_written_count: int = 0
    is_only_replay_sent: bool = False
    """All that the server had got for this request was our own: settings, prepared statements and the like."""
    server_refused: str = ""
    """SQLSTATE of an answer that proves that nothing was executed: 57P03, 25006, or that of a failed login.

    25006 counts only from a server that was taken for something else: a replica, or a primary that has just been
    demoted; not when the client itself has asked for READ ONLY.
    """
    in_transaction: bool = False
    """A transaction block is open, or this request has opened one as far as the server got it."""
    is_only_begin_sent: bool = False
    """All that a server got of the transaction, this request's written bytes included, is BEGIN and SET LOCAL."""
    is_read_only_transaction: bool = False
    """The transaction, or each of this session outside one, is READ ONLY."""
    on_replica: bool = False
    is_write_possible: bool = True
    """A statement of the request may have changed something; False needs READ ONLY, a replica or the classifier."""
    is_row_forwarded: bool = False
    """The client has seen a row, a description or a tag: of this request, or of an earlier statement with data of its
    transaction."""
    statements_count: int = 1
    """Statements with data: of the transaction with this request's, or outside one of the request."""
    is_commit: bool = False
    """The request contains a COMMIT, END, COMMIT PREPARED or PREPARE TRANSACTION."""
    is_commit_alone: bool = False
    """The request is a COMMIT or END of a transaction block and nothing else, so that its whole answer is known."""
    is_rollback: bool = False
    """The request is a ROLLBACK of the whole transaction and nothing else."""
    is_commit_impossible: bool = False
    """The request's Sync was not sent, and none of its commands commits by itself: the transaction that it is when no
    block is open has not ended."""
    is_outcome_armed: bool = False
    """The transaction's id was learnt before the last statement, so that its fate can be asked for."""
    is_copy: bool = False
    """A COPY is in flight, in either direction."""
    is_copy_done_sent: bool = False
    """CopyDone was written to the server: a COPY outside a transaction may be committed."""
    is_replay_verifiable: bool = False
    """The whole transaction is kept with digests of its answers, and is one that may be run again; the operator has
    asked for that."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Shape: ``sqlstate``, ``message``, ``detail`` and ``hint`` are empty where the client gets no error.
    """

    situation: str
    reason: str
    applies: Callable[[Loss], bool]
    action: str
    sqlstate: str = ""
    message: str = ""
    detail: str = ""
    hint: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about one loss, and what to say.

    Shape: ``then`` is the status of the ReadyForQuery after an answer of our own, 0 where a server gives the answer;
    with TransactionStatus.FAILED everything is refused until the client ends its transaction.
    """

    situation: str
    reason: str
    action: str
    sqlstate: str = ""
    message: str = ""
    detail: str = ""
    hint: str = ""
    then: int = 0

    def refusal(self, severity: str = "ERROR") -> Refusal:
        """Return the error that the client gets.

        Then: send it only where ``sqlstate`` is set.
        """
        return Refusal(self.sqlstate, self.message, detail=self.detail, hint=self.hint, severity=severity)


class Request(NamedTuple):
    """One request of a client, as far as its server had not answered it.

    Shape: ``statements`` are those that were to be executed, without comments around them; ``is_whole`` is False where
    the Sync is still to come, so that no ReadyForQuery is owed yet.
    """

    entries: tuple[Entry, ...]
    statements: tuple[bytes, ...]
    is_whole: bool


class Verdict(NamedTuple):
    """What was decided of one request of a client whose server is gone, and the status that it leaves.

    Shape: ``request`` is None where nothing was under way: then the next request is told.
    """

    decision: Decision
    status: int
    request: Request | None = None


_RETRY: Final = "Retry the transaction."
_RETRY_STATEMENT: Final = "Retry the statement, or the transaction that it is part of."
_CHECK: Final = "Check whether the change is there before you retry."
_LOST: Final = "the database server was lost before the transaction was committed"
_UNKNOWN: Final = "the database server was lost and the outcome of the transaction is unknown"


def _is_reading(loss: Loss) -> bool:
    """Tell whether a written request, neither COPY nor the end of a transaction, cannot have had an effect."""
    return (
        loss.bytes_written_count > 0
        and (loss.is_read_only_transaction or loss.on_replica)
        and not (loss.is_write_possible or loss.is_commit or loss.is_rollback or loss.is_copy)
    )


def _is_repeatable(loss: Loss) -> bool:
    return _is_reading(loss) and loss.statements_count == 1 and not loss.is_row_forwarded


def _is_uncertain(loss: Loss) -> bool:
    """Tell whether the server may have committed something before it was lost."""
    if loss.bytes_written_count == 0 or loss.is_rollback:
        return False
    if loss.is_commit:
        return True
    is_possible = loss.is_copy_done_sent if loss.is_copy else not loss.is_commit_impossible
    return is_possible and not loss.in_transaction


TABLE: Final[tuple[Row, ...]] = (
    Row(
        situation="failed_already",
        reason="the request had failed and its client was told so: only the end of the answer is missing",
        applies=lambda loss: loss.is_answered and not loss.is_idle,
        action=Action.END_REQUEST,
    ),
    Row(
        situation="unsent",
        reason="no byte of the request was written to a server: it was never executed",
        applies=lambda loss: (
            not (
                loss.is_idle
                or loss.in_transaction
                or loss.bytes_written_count
                or loss.is_only_replay_sent
                or loss.server_refused
            )
        ),
        action=Action.WAIT_AND_SEND,
    ),
    Row(
        situation="only_state_replay_sent",
        reason="the server had got our own statements only",
        applies=lambda loss: (
            loss.is_only_replay_sent
            and not (loss.is_idle or loss.in_transaction or loss.bytes_written_count or loss.server_refused)
        ),
        action=Action.REBUILD_AND_SEND,
    ),
    Row(
        situation="refused_before_execution",
        reason="the server refused before it executed anything",
        applies=lambda loss: (
            bool(loss.server_refused)
            and not (
                loss.is_idle or loss.in_transaction or loss.is_row_forwarded or loss.is_copy or loss.is_commit
            )
        ),
        action=Action.OTHER_SERVER,
    ),
    Row(
        situation="only_begin_sent",
        reason="the transaction was BEGIN and SET LOCAL only: the client has seen no data",
        applies=lambda loss: (
            loss.in_transaction
            and loss.is_only_begin_sent
            and not (loss.is_row_forwarded or loss.is_copy or (loss.is_commit and loss.bytes_written_count))
        ),
        action=Action.REPLAY_AND_CONTINUE,
    ),
    Row(
        situation="read_unanswered",
        reason="a single reading statement whose result the client has not begun to see: no effects are possible",
        applies=_is_repeatable,
        action=Action.REPEAT,
    ),
    Row(
        situation="read_partly_answered",
        reason="reading statements of which the client may have seen a part: a repeated result could differ",
        applies=lambda loss: _is_reading(loss) and (loss.is_row_forwarded or not loss.in_transaction),
        action=Action.FAIL_40001,
        sqlstate=SQLSTATE.SERIALIZATION_FAILURE,
        message="the database server was lost before the result was complete",
        detail="Nothing was changed. The rest of the result cannot be read from another server, because it could "
        "differ.",
        hint=_RETRY_STATEMENT,
    ),
    Row(
        situation="autocommit_unanswered_armed",
        reason="a statement outside a transaction may have been committed, and its id is known",
        applies=lambda loss: (
            loss.is_outcome_armed
            and _is_uncertain(loss)
            and not (loss.in_transaction or loss.is_commit or loss.is_copy)
        ),
        action=Action.RESOLVE_COMMIT,
    ),
    Row(
        situation="autocommit_unanswered",
        reason="a statement outside a transaction may have been committed: its outcome is unknown",
        applies=lambda loss: (
            _is_uncertain(loss) and not (loss.in_transaction or loss.is_commit or loss.is_copy)
        ),
        action=Action.FAIL_08007,
        sqlstate=SQLSTATE.TRANSACTION_RESOLUTION_UNKNOWN,
        message="the database server was lost and the outcome of the statement is unknown",
        detail="The statement was sent and not answered: it was executed as a whole or not at all.",
        hint=_CHECK,
    ),
    Row(
        situation="batch_unfinished",
        reason="the Sync of a batch was not sent, without which nothing of it is committed",
        applies=lambda loss: (
            loss.is_commit_impossible
            and loss.bytes_written_count > 0
            and not (loss.in_transaction or loss.is_commit or loss.is_copy or loss.is_rollback)
        ),
        action=Action.FAIL_40001,
        sqlstate=SQLSTATE.SERIALIZATION_FAILURE,
        message=_LOST,
        detail="Nothing of the batch was committed, because its Sync was not sent. The session goes on with another "
        "server.",
        hint="Retry the batch.",
    ),
    Row(
        situation="rollback",
        reason="the client ends a transaction that the loss of the server has ended already",
        applies=lambda loss: loss.is_rollback and not loss.is_idle,
        action=Action.ANSWER_ROLLBACK,
    ),
    Row(
        situation="verified_replay",
        reason="the transaction is run again: it goes on if every answer is the same",
        applies=lambda loss: (
            loss.is_replay_verifiable
            and loss.in_transaction
            and not (
                loss.is_idle or loss.is_commit or loss.is_copy or loss.is_rollback or loss.is_row_forwarded
            )
        ),
        action=Action.REPLAY_VERIFIED,
    ),
    Row(
        situation="in_transaction",
        reason="a transaction with data statements is lost: only the application can decide to do it again",
        applies=lambda loss: (
            not (loss.is_idle or loss.is_copy or _is_uncertain(loss))
            and (loss.in_transaction or loss.bytes_written_count == 0)
        ),
        action=Action.FAIL_40001,
        sqlstate=SQLSTATE.SERIALIZATION_FAILURE,
        message=_LOST,
        detail="Nothing of the transaction was committed. The session goes on with another server.",
        hint=_RETRY,
    ),
    Row(
        situation="commit_unanswered_armed",
        reason="COMMIT was sent and not answered, and the transaction's id is known",
        applies=lambda loss: loss.is_commit and loss.is_outcome_armed and _is_uncertain(loss),
        action=Action.RESOLVE_COMMIT,
    ),
    Row(
        situation="commit_unanswered",
        reason="COMMIT was sent and not answered: its outcome is unknown",
        applies=lambda loss: loss.is_commit and not loss.is_copy and _is_uncertain(loss),
        action=Action.FAIL_08007,
        sqlstate=SQLSTATE.TRANSACTION_RESOLUTION_UNKNOWN,
        message=_UNKNOWN,
        detail="COMMIT was sent and not answered: the transaction was committed as a whole or not at all.",
        hint=_CHECK,
    ),
    Row(
        situation="copy_not_committed",
        reason="a COPY was cut before it could be committed",
        applies=lambda loss: loss.is_copy and not _is_uncertain(loss),
        action=Action.DRAIN_COPY_AND_FAIL,
        sqlstate=SQLSTATE.SERIALIZATION_FAILURE,
        message="the database server was lost during COPY",
        detail="Nothing of the COPY was committed. The session goes on with another server.",
        hint=_RETRY,
    ),
    Row(
        situation="copy_unanswered_armed",
        reason="a COPY was complete and not answered, and the transaction's id is known",
        applies=lambda loss: loss.is_copy and loss.is_outcome_armed,
        action=Action.RESOLVE_COMMIT,
    ),
    Row(
        situation="copy_unanswered",
        reason="a COPY was complete and not answered: its outcome is unknown",
        applies=lambda loss: loss.is_copy,
        action=Action.DRAIN_COPY_AND_FAIL,
        sqlstate=SQLSTATE.TRANSACTION_RESOLUTION_UNKNOWN,
        message="the database server was lost and the outcome of COPY is unknown",
        detail="All data was sent and not acknowledged: the COPY was committed as a whole or not at all.",
        hint=_CHECK,
    ),
    Row(
        situation="idle_restorable",
        reason="the session was idle, and all that it held on the server can be made again",
        applies=lambda loss: loss.is_idle and loss.is_restorable,
        action=Action.REBUILD_SILENTLY,
    ),
    Row(
        situation="idle_not_restorable",
        reason="the session was idle, and held on the server what cannot be made again",
        applies=lambda loss: loss.is_idle,
        action=Action.WARN_OR_CLOSE,
    ),
)
"""The rows in the order of the specification; where that says "xid check if armed" it has two rows here.

The row ``failed_already`` is no loss: a second error would be taken for the next request's. The row
``batch_unfinished`` is a statement outside a transaction of which more is known. The row ``rollback`` is the end of
"40001, then E until ROLLBACK" for the case that the ROLLBACK comes first. The row ``verified_replay``, the last one
there, is an exception to ``in_transaction`` and stands before it.
"""

_FAILING: Final = frozenset({Action.FAIL_40001, Action.FAIL_08007, Action.DRAIN_COPY_AND_FAIL})


def decide(loss: Loss) -> Decision:
    """Return what becomes of one request; the first row that applies decides.

    Then: where the session was not restorable and goes on, send :func:`loss_report` as well.
    """
    row = next(row for row in TABLE if row.applies(loss))
    then = 0
    if row.action in _FAILING or row.action == Action.END_REQUEST:
        # A COMMIT ends its block also when it fails, as it does at a server.
        is_block_open = loss.in_transaction and not loss.is_commit
        then = TransactionStatus.FAILED if is_block_open else TransactionStatus.IDLE
    elif row.action == Action.ANSWER_ROLLBACK:
        then = TransactionStatus.IDLE
    return Decision(
        situation=row.situation,
        reason=row.reason,
        action=row.action,
        sqlstate=row.sqlstate,
        message=row.message,
        detail=row.detail,
        hint=row.hint,
        then=then,
    )


def resolved(loss: Loss, is_committed: bool | None) -> Decision:
    """Return what follows RESOLVE_COMMIT, when the new primary has said what became of the transaction.

    Args:
        loss: the facts that were decided on.
        is_committed: its answer; None where it cannot know.
    """
    if is_committed is None:
        return decide(msgspec.structs.replace(loss, is_outcome_armed=False))
    if not is_committed:
        return Decision(
            situation="resolved_aborted",
            reason="the new primary says that the transaction was not committed",
            action=Action.FAIL_40001,
            sqlstate=SQLSTATE.SERIALIZATION_FAILURE,
            message=_LOST,
            detail="The server that took over confirms that nothing of the transaction was committed.",
            hint=_RETRY,
            then=TransactionStatus.IDLE,
        )
    if loss.is_commit_alone and not loss.is_row_forwarded:
        return Decision(
            situation="resolved_committed",
            reason="the new primary says that the transaction was committed",
            action=Action.ANSWER_COMMIT,
            then=TransactionStatus.IDLE,
        )
    return Decision(
        situation="resolved_committed_without_result",
        reason="the new primary says that the statement was committed; its result is lost",
        action=Action.FAIL_08007,
        sqlstate=SQLSTATE.TRANSACTION_RESOLUTION_UNKNOWN,
        message="the statement was committed, but its result was lost with the database server",
        detail="The server that took over confirms that the change is there.",
        hint="Do not retry the statement; read the result from the database.",
        then=TransactionStatus.IDLE,
    )


def replayed(why: str) -> Decision:
    """Return what is counted and logged at the end of REPLAY_VERIFIED.

    Args:
        why: the transaction could not go on; empty if it does.
    Then: where it could not, the client is told what was decided without ``is_replay_verifiable``.
    """
    if not why:
        return Decision(
            situation="replay_equal",
            reason="the transaction was run again and every answer was the same: it goes on",
            action=Action.REPLAY_AND_CONTINUE,
        )
    return Decision(situation="replay_given_up", reason=why, action=Action.FAIL_40001)


def loss_report(lost: Sequence[str], *, is_closing: bool = False) -> Refusal:
    """Return what a client is told that goes on, or has to go, without things which its session held.

    Args:
        lost: what is gone, in words such as ``temporary table "cart"``.
        is_closing: policy ``failover.on_unrestorable = "close"``.
    Returns: a warning for a NoticeResponse, or the FATAL error before the connection is closed.
    """
    detail = f"Lost: {', '.join(lost)}." if lost else ""
    if is_closing:
        return Refusal(
            SQLSTATE.CONNECTION_FAILURE,
            "the database server was lost with parts of this session that cannot be restored",
            detail=detail,
            hint="Connect again and make them anew.",
        )
    return Refusal(
        SQLSTATE.WARNING,
        "this session has moved to another database server without parts that cannot be restored",
        detail=detail,
        hint="Make them anew before you use them.",
        severity="WARNING",
    )
