"""The table of what may be retried after the loss of a server, row by row, and what it must never do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sojourn.gateways.postgres.messages import TransactionStatus
from sojourn.gateways.postgres.retry import (
    TABLE,
    Action,
    Loss,
    decide,
    loss_report,
    replayed,
    resolved,
)

IDLE, FAILED = TransactionStatus.IDLE, TransactionStatus.FAILED
SENT = {"bytes_written_count": 40}
READ = {**SENT, "is_write_possible": False}

BY_ROW = [
    # The error was told, its ReadyForQuery was not: nothing is lost but that.
    ("failed_already", {**SENT, "is_answered": True}, Action.END_REQUEST, "", IDLE),
    ("failed_already", {**SENT, "is_answered": True, "in_transaction": True}, Action.END_REQUEST, "", FAILED),
    (
        "failed_already",
        {**SENT, "is_answered": True, "in_transaction": True, "is_commit": True},
        Action.END_REQUEST,
        "",
        IDLE,
    ),
    # No byte of the request was written to a server: wait for a new one, send.
    ("unsent", {}, Action.WAIT_AND_SEND, "", 0),
    ("unsent", {"is_commit": True}, Action.WAIT_AND_SEND, "", 0),
    ("unsent", {"is_restorable": False}, Action.WAIT_AND_SEND, "", 0),
    # Only SET or state replay was sent: rebuild, send.
    ("only_state_replay_sent", {"is_only_replay_sent": True}, Action.REBUILD_AND_SEND, "", 0),
    # 57P03, 25006, or FATAL before executing: other server.
    ("refused_before_execution", {"server_refused": "57P03"}, Action.OTHER_SERVER, "", 0),
    (
        "refused_before_execution",
        {**SENT, "server_refused": "25006", "on_replica": True},
        Action.OTHER_SERVER,
        "",
        0,
    ),
    (
        "refused_before_execution",
        {"server_refused": "53300", "is_only_replay_sent": True},
        Action.OTHER_SERVER,
        "",
        0,
    ),
    # Deferred BEGIN only, or BEGIN + SET LOCAL only: replay, continue.
    (
        "only_begin_sent",
        {"in_transaction": True, "is_only_begin_sent": True},
        Action.REPLAY_AND_CONTINUE,
        "",
        0,
    ),
    (
        "only_begin_sent",
        {"in_transaction": True, "is_only_begin_sent": True, **SENT},
        Action.REPLAY_AND_CONTINUE,
        "",
        0,
    ),
    # Single statement in a READ ONLY transaction or on a replica, no row forwarded yet: repeat.
    ("read_unanswered", {**READ, "on_replica": True}, Action.REPEAT, "", 0),
    (
        "read_unanswered",
        {**READ, "is_read_only_transaction": True, "in_transaction": True},
        Action.REPEAT,
        "",
        0,
    ),
    # Same, rows already forwarded: 40001, connection stays.
    (
        "read_partly_answered",
        {**READ, "on_replica": True, "is_row_forwarded": True},
        Action.FAIL_40001,
        "40001",
        IDLE,
    ),
    (
        "read_partly_answered",
        {**READ, "is_read_only_transaction": True, "in_transaction": True, "is_row_forwarded": True},
        Action.FAIL_40001,
        "40001",
        FAILED,
    ),
    (
        "read_partly_answered",
        {**READ, "on_replica": True, "statements_count": 2},
        Action.FAIL_40001,
        "40001",
        IDLE,
    ),
    # Autocommit statement, possibly writing, unanswered: xid check if armed, else 08007.
    ("autocommit_unanswered_armed", {**SENT, "is_outcome_armed": True}, Action.RESOLVE_COMMIT, "", 0),
    ("autocommit_unanswered", SENT, Action.FAIL_08007, "08007", IDLE),
    ("autocommit_unanswered", {**SENT, "is_row_forwarded": True}, Action.FAIL_08007, "08007", IDLE),
    ("autocommit_unanswered", {**SENT, "on_replica": True}, Action.FAIL_08007, "08007", IDLE),
    # The Sync of a batch was not sent, and none of its commands commits by itself: nothing is committed.
    ("batch_unfinished", {"is_commit_impossible": True, **SENT}, Action.FAIL_40001, "40001", IDLE),
    (
        "batch_unfinished",
        {"is_commit_impossible": True, "is_row_forwarded": True, **SENT},
        Action.FAIL_40001,
        "40001",
        IDLE,
    ),
    # The ROLLBACK that ends the next row's transaction may come first.
    ("rollback", {"in_transaction": True, "is_rollback": True}, Action.ANSWER_ROLLBACK, "", IDLE),
    ("rollback", {"in_transaction": True, "is_rollback": True, **SENT}, Action.ANSWER_ROLLBACK, "", IDLE),
    (
        "rollback",
        {**READ, "in_transaction": True, "is_read_only_transaction": True, "is_rollback": True},
        Action.ANSWER_ROLLBACK,
        "",
        IDLE,
    ),
    # Opt-in, verified replay: an exception to the next row.
    (
        "verified_replay",
        {"in_transaction": True, "is_replay_verifiable": True, **SENT},
        Action.REPLAY_VERIFIED,
        "",
        0,
    ),
    (
        "verified_replay",
        {"in_transaction": True, "is_replay_verifiable": True},
        Action.REPLAY_VERIFIED,
        "",
        0,
    ),
    (
        "verified_replay",
        {
            **READ,
            "in_transaction": True,
            "is_read_only_transaction": True,
            "statements_count": 2,
            "is_replay_verifiable": True,
        },
        Action.REPLAY_VERIFIED,
        "",
        0,
    ),
    # Inside a transaction with data statements: 40001, then E until ROLLBACK.
    ("in_transaction", {"in_transaction": True, **SENT}, Action.FAIL_40001, "40001", FAILED),
    (
        "in_transaction",
        {"is_commit_impossible": True, "in_transaction": True, **SENT},
        Action.FAIL_40001,
        "40001",
        FAILED,
    ),
    ("in_transaction", {"in_transaction": True}, Action.FAIL_40001, "40001", FAILED),
    ("in_transaction", {"in_transaction": True, "is_commit": True}, Action.FAIL_40001, "40001", IDLE),
    (
        "in_transaction",
        {**READ, "in_transaction": True, "is_read_only_transaction": True, "statements_count": 2},
        Action.FAIL_40001,
        "40001",
        FAILED,
    ),
    # COMMIT unanswered: xid check, else 08007.
    (
        "commit_unanswered_armed",
        {"in_transaction": True, "is_commit": True, "is_outcome_armed": True, **SENT},
        Action.RESOLVE_COMMIT,
        "",
        0,
    ),
    (
        "commit_unanswered",
        {"in_transaction": True, "is_commit": True, **SENT},
        Action.FAIL_08007,
        "08007",
        IDLE,
    ),
    (
        "commit_unanswered",
        {"in_transaction": True, "is_commit": True, "is_only_begin_sent": True, **SENT},
        Action.FAIL_08007,
        "08007",
        IDLE,
    ),
    # COPY in flight: 40001 or 08007 as above, drain the client's data to CopyDone.
    ("copy_not_committed", {"is_copy": True, **SENT}, Action.DRAIN_COPY_AND_FAIL, "40001", IDLE),
    (
        "copy_not_committed",
        {"is_copy": True, "in_transaction": True, "is_copy_done_sent": True, **SENT},
        Action.DRAIN_COPY_AND_FAIL,
        "40001",
        FAILED,
    ),
    (
        "copy_unanswered_armed",
        {"is_copy": True, "is_copy_done_sent": True, "is_outcome_armed": True, **SENT},
        Action.RESOLVE_COMMIT,
        "",
        0,
    ),
    (
        "copy_unanswered",
        {"is_copy": True, "is_copy_done_sent": True, **SENT},
        Action.DRAIN_COPY_AND_FAIL,
        "08007",
        IDLE,
    ),
    # Idle, state restorable: rebuild silently. Not restorable: warning or close, by policy.
    ("idle_restorable", {"is_idle": True}, Action.REBUILD_SILENTLY, "", 0),
    ("idle_not_restorable", {"is_idle": True, "is_restorable": False}, Action.WARN_OR_CLOSE, "", 0),
]


@pytest.mark.parametrize(("situation", "facts", "action", "sqlstate", "then"), BY_ROW)
def test_each_row_of_the_specification_is_followed(situation, facts, action, sqlstate, then):
    """Spec section 6.8, to the letter."""
    decision = decide(Loss(**facts))
    assert (decision.situation, decision.action, decision.sqlstate, decision.then) == (
        situation,
        action,
        sqlstate,
        then,
    )


def test_every_row_is_proved_above_and_they_stand_in_the_order_of_the_specification():
    """No row without a case, and the first cases of the rows come in the order of the table."""
    assert list(dict.fromkeys(case[0] for case in BY_ROW)) == [row.situation for row in TABLE]
    assert len({row.situation for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.situation)
def test_whoever_gets_an_error_reads_what_happened_what_was_executed_and_what_to_do(row):
    """Messages in plain words; a reason for the log in every row."""
    assert row.reason
    assert bool(row.sqlstate) == bool(row.message) == bool(row.detail) == bool(row.hint)
    assert bool(row.sqlstate) == (
        row.action in {Action.FAIL_40001, Action.FAIL_08007, Action.DRAIN_COPY_AND_FAIL}
    )
    assert row.sqlstate != "08P01"


LOSSES = st.builds(
    Loss,
    **{name: st.booleans() for name in Loss.__struct_fields__ if name.startswith(("is_", "in_", "on_"))},
    bytes_written_count=st.sampled_from([0, 1, 4096]),
    server_refused=st.sampled_from(["", "57P03", "25006", "28000"]),
    statements_count=st.integers(0, 3),
)
SENDS_AGAIN = {
    Action.WAIT_AND_SEND,
    Action.REBUILD_AND_SEND,
    Action.OTHER_SERVER,
    Action.REPLAY_AND_CONTINUE,
    Action.REPEAT,
}


@given(LOSSES)
def test_nothing_is_repeated_that_was_seen_or_may_have_written(loss):
    """3.3 point 4: provably safe retry, and nothing beyond it; for any combination of facts there is an answer."""
    decision = decide(loss)
    if decision.action == Action.REPEAT:
        assert not loss.is_row_forwarded
        assert not loss.is_write_possible
        assert not loss.is_commit
        assert not loss.is_copy
        assert loss.statements_count == 1
    if decision.action in SENDS_AGAIN and loss.bytes_written_count:
        assert loss.server_refused or loss.is_only_begin_sent or not loss.is_write_possible
        assert not loss.is_row_forwarded


@given(LOSSES)
def test_only_a_transaction_without_commit_is_run_again_and_only_where_that_is_asked_for(loss):
    """6.8, last row: never default, nothing whose fate is not known, nothing that was seen in part."""
    if decide(loss).action == Action.REPLAY_VERIFIED:
        assert loss.is_replay_verifiable
        assert loss.in_transaction
        assert not any(
            (loss.is_commit, loss.is_copy, loss.is_rollback, loss.is_row_forwarded, loss.is_answered)
        )
        otherwise = decide(structs.replace(loss, is_replay_verifiable=False))
        assert otherwise.sqlstate == "40001"


@given(LOSSES)
def test_what_may_be_committed_is_never_called_uncommitted(loss):
    """40001 says that nothing was committed: not after a COMMIT, nor a write outside a transaction, was sent."""
    decision = decide(loss)
    if decision.sqlstate == "40001" and loss.bytes_written_count:
        assert not loss.is_commit or loss.is_rollback
        is_open = loss.in_transaction or (loss.is_copy and not loss.is_copy_done_sent) or loss.is_rollback
        assert is_open or loss.is_commit_impossible or not loss.is_write_possible


@given(LOSSES)
def test_an_error_says_what_the_client_s_transaction_is_afterwards(loss):
    """Spec section 6.8: the connection stays; E only inside a transaction."""
    decision = decide(loss)
    ends = decision.action in (Action.ANSWER_ROLLBACK, Action.END_REQUEST)
    assert (decision.then != 0) == (bool(decision.sqlstate) or ends)
    if decision.then == FAILED:
        assert loss.in_transaction
        assert not loss.is_commit


@pytest.mark.parametrize(
    ("facts", "is_committed", "action", "sqlstate"),
    [
        ({"is_commit": True, "is_commit_alone": True}, True, Action.ANSWER_COMMIT, ""),
        ({"is_commit": True, "is_commit_alone": True}, False, Action.FAIL_40001, "40001"),
        ({"is_commit": True, "is_commit_alone": True}, None, Action.FAIL_08007, "08007"),
        ({"is_commit": True}, True, Action.FAIL_08007, "08007"),
        ({"in_transaction": False}, True, Action.FAIL_08007, "08007"),
        ({"in_transaction": False}, False, Action.FAIL_40001, "40001"),
        ({"in_transaction": False}, None, Action.FAIL_08007, "08007"),
        (
            {"in_transaction": False, "is_copy": True, "is_copy_done_sent": True},
            None,
            Action.DRAIN_COPY_AND_FAIL,
            "08007",
        ),
    ],
)
def test_an_armed_outcome_is_asked_for_and_told(facts, is_committed, action, sqlstate):
    """3.3 point 3: the new primary decides; what it cannot know stays unknown."""
    loss = Loss(**{"in_transaction": True, "is_outcome_armed": True, **SENT, **facts})
    assert decide(loss).action == Action.RESOLVE_COMMIT
    decision = resolved(loss, is_committed)
    assert (decision.action, decision.sqlstate, decision.then) == (action, sqlstate, IDLE)


def test_the_error_of_a_decision_keeps_the_connection():
    """Severity ERROR, with detail and hint."""
    refusal = decide(Loss(in_transaction=True)).refusal()
    assert (refusal.severity, refusal.sqlstate) == ("ERROR", "40001")
    assert "committed" in refusal.detail
    assert refusal.hint == "Retry the transaction."


def test_a_loss_report_names_what_is_gone():
    """3.3 point 5: a warning of class 01, or 08006 before the connection is closed, by policy."""
    warning = loss_report(['temporary table "cart"', "1 advisory lock"])
    assert (warning.sqlstate, warning.severity) == ("01000", "WARNING")
    assert warning.detail == 'Lost: temporary table "cart", 1 advisory lock.'
    closing = loss_report([], is_closing=True)
    assert (closing.sqlstate, closing.severity, closing.detail) == ("08006", "FATAL", "")


def test_the_end_of_a_replay_is_counted_as_what_it_was():
    """6.8: every automatic action increments a labelled counter and writes a line with its reason."""
    assert replayed("").situation == "replay_equal"
    given_up = replayed("the answer to request 2 of 3 is another one")
    assert (given_up.situation, given_up.reason) == (
        "replay_given_up",
        "the answer to request 2 of 3 is another one",
    )
