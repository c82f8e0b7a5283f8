"""Verified replay: a transaction whose server died is run again on the next one, as long as every answer is the same.

Theory of operation. The client waits as for any server. When it has one, its transaction is begun by queries of ours,
at REPEATABLE READ at least; then each request that was answered goes through the client's usual way again, one at a
time, while what would be written to the client goes into a digest. At the first difference all of it is rolled back,
and the client is told what it would have been told without this. After the last one the unanswered rest is sent, and
the journal goes on. COMMIT is never sent from here: it is not in a journal that may be run again.
Source: postgres-proxy.md section 6.8, the last row.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres import cancel, lost_transaction, recovery, request_walk
from sojourn.gateways.postgres.journal import PLAIN_BEGIN, REPLAYS_COUNT, Journal, digest_of
from sojourn.gateways.postgres.messages import Refusal, TransactionStatus
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.retry import Action, Decision, Verdict, replayed
from sojourn.gateways.postgres.states import HOLDS_PLACE, Busy, ClientState, Holds, ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession

_ASK_LEVEL: Final = b"SHOW transaction_isolation"
_RAISE_LEVEL: Final = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_STABLE_LEVELS: Final = (b"repeatable read", b"serializable")


def of(client: ClientSession) -> Replay | None:
    """Return the replay that a client waits for, if it does."""
    return client.journal if isinstance(client.journal, Replay) else None


def begin(client: ClientSession, otherwise: list[Verdict]) -> None:
    """Run a client's transaction again at the next server.

    Args:
        client: its journal allows it.
        otherwise: what it is told if that fails.
    """
    if isinstance(client.journal, Journal):
        Replay(client.journal, otherwise).wait()


class Replay:
    """One transaction on its way to be where it was.

    Life: made at the loss of its server; ended when all is as it was, at the first difference, at its deadline, or with
    its client. Always true: while it lasts it is ``client.journal``, its pool's upkeep knows it, and the client waits,
    so that what it sends is kept.
    """

    __slots__ = (
        "_client",
        "_deadline",
        "_digest",
        "_has_begun",
        "_index",
        "_is_level_known",
        "_journal",
        "_lost",
        "_otherwise",
        "_rest",
        "_route",
        "_server",
        "_told",
    )

    def __init__(self, journal: Journal, otherwise: list[Verdict]) -> None:
        client = journal.client
        self._client = client
        self._journal = journal
        self._otherwise = otherwise
        self._rest = journal.unanswered + client.partial
        self._lost = (client.skip, client.partial, client.prepared, client.unnamed)
        self._route = client.route
        """Where the client stood: there it is told, if it has to be."""
        self._deadline = monotonic() + client.config.failover.verified_replay_timeout_s
        self._server: ServerSession | None = None
        self._index = 0
        self._has_begun = self._is_level_known = False
        self._digest = digest_of()
        self._told = client.reported
        journal.drop()
        client.journal = self
        client.pool.upkeep.replays.add(self)

    def wait(self) -> None:
        """Put the session back to where the transaction began, and wait for a server."""
        client, journal = self._client, self._journal
        self._server = None
        client.write = journal.forward
        client.skip, client.partial, client.discards = 0, b"", False
        recovery.forget_request(client)
        lost_transaction.forget_changes(client)
        if journal.before is not None:
            client.prepared = dict(journal.before)
        client.unnamed = journal.unnamed
        client.skips_to_sync = False
        client.route = 0  # the primary has what a replica may not have yet
        if client.floor is not None:
            client.holds |= Holds.FLOOR
        client.busy |= Busy.WAITING
        client.kept = client.kept or []
        client.pool.take_later(client)

    def attached(self, server: ServerSession) -> None:
        """Begin on a server that has the session's state."""
        client = self._client
        client.busy |= Busy.WAITING
        client.state = ClientState.WAITING
        client.write = self._compare
        self._server = server
        self._told = client.reported
        self._index = 0
        self._has_begun = self._is_level_known = False
        words = f"{len(self._journal.digests)} answered requests"
        client.note_sent(server.node.name, "transaction again", words)
        *others, last = self._journal.opening
        for message in others:
            server.send_hidden(message, self._hidden(server, _nothing))
        server.send_hidden(last, self._hidden(server, lambda _: self._begun(server)))

    def _begun(self, server: ServerSession) -> None:
        """Take note that the server is alive: one that was about to die like the first is not what a replay costs."""
        self._journal.replays_count += 1
        self._next(server)

    def _hidden(self, server: ServerSession, then: Callable[[Hidden], None]) -> Hidden:
        """Return a query of ours, after which it goes on if all is well."""
        return Hidden(partial(self._went, server, then))

    def _went(self, server: ServerSession, then: Callable[[Hidden], None], hidden: Hidden) -> None:
        if self._server is not server:
            return
        if hidden.error is not None:
            self.give_up(f"the transaction could not be begun again: {hidden.error.get('M', '')}")
        else:
            then(hidden)

    def _next(self, server: ServerSession) -> None:
        """Send the next request that was answered, or go on behind the last one."""
        if self._server is not server:
            return
        journal = self._journal
        if self._index == len(journal.digests):
            self._finish(server)
        elif self._is_level_known or self._index < journal.beginnings_count:
            self._digest = digest_of()
            request_walk.walk(self._client, journal.requests[self._index])
        else:
            server.run(_ASK_LEVEL, self._hidden(server, lambda hidden: self._raise(server, hidden)))

    def _raise(self, server: ServerSession, hidden: Hidden) -> None:
        """See to it that all that is read belongs to one moment, now that the client has had its say about that."""
        self._is_level_known = True
        if hidden.results and hidden.results[0] and hidden.results[0][0][0] in _STABLE_LEVELS:
            self._next(server)
        else:
            server.run(_RAISE_LEVEL, self._hidden(server, lambda _: self._next(server)))

    def _compare(self, data: bytes) -> None:
        """Take what would be written to the client."""
        self._digest.update(data)

    def answered(self, status: int) -> None:
        """Compare an answer that is complete; the client's session takes note of it before the next request goes."""
        del status  # it is in the digest
        server, digests = self._server, self._journal.digests
        if server is None:
            return
        if self._digest.digest() != digests[self._index]:
            self.give_up(f"the answer to request {self._index + 1} of {len(digests)} is another one")
            return
        self._index += 1
        self._client.gateway.loop.call_soon(self._next, server)

    def has_begun(self, text: bytes) -> bool:
        """Say whether this Execute is the BEGIN of the first request, which has been done by a query of ours."""
        if self._has_begun or not self._journal.begins_within:
            return False
        self._has_begun = True
        return PLAIN_BEGIN.match(text) is not None

    def keep(self, kind: int, part: bytes, *, is_whole: bool) -> None:
        """Keep nothing: it is in the journal."""

    def keep_rest(self, part: bytes, *, is_whole: bool) -> None:
        """Keep nothing, as above."""

    def _finish(self, server: ServerSession) -> None:
        """Let the client go on: what it had no answer to first, then what it has sent meanwhile."""
        client = self._client
        client.note_received(server.node.name, "same answers")
        self.drop()
        news = client.reported.news_for(self._told)
        if news:
            client.write(news)
        _tell_operator(client, replayed(""))
        self._journal.resume(is_resending=bool(self._rest))
        if self._rest:
            client.kept = [self._rest, *(client.kept or ())]
        client.attached(server)

    # Ends

    def drop(self) -> None:
        """End: nothing that still comes is for this."""
        client = self._client
        self._server = None
        client.journal = None
        client.write = self._journal.forward
        client.route = self._route
        client.pool.upkeep.replays.discard(self)

    def server_lost(self, cause: str) -> None:
        """Begin again at the next server; not for ever."""
        if self._journal.replays_count >= REPLAYS_COUNT:
            self.give_up(f"{REPLAYS_COUNT} servers were lost during it, the last one by: {cause}")
        else:
            self.wait()

    def tick(self, now: float) -> None:
        """Keep to the deadline."""
        if now > self._deadline:
            self.give_up("verified_replay_timeout_s is over")

    def cancel(self, refusal: Refusal) -> None:
        """Carry out the client's cancel request: what waits for an answer gets this one, and the transaction fails."""
        if self._rest or self._client.kept:
            self.give_up("the client has cancelled it", refusal)

    def give_up(self, why: str, refusal: Refusal | None = None) -> None:
        """Roll back what was run again, and tell the client that its transaction is lost.

        Args:
            why: for the operator.
            refusal: what the client is told for the request that waits, if not that.
        """
        client = self._client
        self.drop()
        client.pool.forget_waiting(client)
        if client.server is not None:
            _let_go(client, client.server, why)
        if client.holds & HOLDS_PLACE:
            client.needs_restore = True
        client.skip, client.partial, client.prepared, client.unnamed = self._lost
        client.busy &= ~Busy.WAITING
        client.state = ClientState.READY
        client.waits_since = 0.0
        kept, client.kept = client.kept, None
        _tell_operator(client, replayed(why))
        verdicts = self._otherwise
        if refusal is not None:
            verdicts = [_refused(refusal, verdicts[0]), *verdicts[1:]]
        recovery.tell(client, verdicts)
        client.resume_reading()
        for data in kept or ():
            if not client.ended:
                client.data_received(data)


def _nothing(_hidden: Hidden) -> None:
    """Go on with what comes behind it anyway."""


def _refused(refusal: Refusal, verdict: Verdict) -> Verdict:
    """Return a verdict with another error, after which the transaction is as failed as before."""
    decision = Decision(
        situation="replay_given_up",
        reason="the client has cancelled it",
        action=Action.FAIL_40001,
        sqlstate=refusal.sqlstate,
        message=refusal.message,
        then=TransactionStatus.FAILED,
    )
    return Verdict(decision, TransactionStatus.FAILED, verdict.request)


def _tell_operator(client: ClientSession, decision: Decision) -> None:
    client.gateway.count_loss(decision.situation)
    client.gateway.told_loss(client, decision)
    client.note(f"{decision.situation}: {decision.reason}")


def _let_go(client: ClientSession, server: ServerSession, why: str) -> None:
    """Roll back, and give the server to others; one that is at work is closed."""
    client.server = server.client = None
    server.resume_reading()
    gateway, pool = client.gateway, client.pool
    if server.fifo or server.copy_in:
        timeout_s = gateway.settings.timeouts.cancel_wait_timeout_s
        gateway.server.spawn(cancel.abandon(server, timeout_s=timeout_s))
        server.abort(f"a transaction was not run again on it: {why}")
        return

    def rolled_back(hidden: Hidden) -> None:
        if server.state == ServerState.CLOSED:
            return
        if hidden.error is not None:
            server.close("it could not roll back")
        else:
            pool.clean(server, is_dirty=True)

    server.state = ServerState.RESET
    server.run(b"ROLLBACK", Hidden(rolled_back))
