"""Commands of the console: who may give them, what each asks of the engine, what it answers.

Knows no connection: text in, messages out. The protocol around it is
:mod:`~sojourn.gateways.postgres.console.conversation`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, get_args

from sojourn.errors import SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console.averages import Averages
from sojourn.gateways.postgres.console.commands import (
    MARK,
    Command,
    assignment,
    commands,
    no_argument,
    one_name,
    optional_name,
    refuse,
)
from sojourn.gateways.postgres.console.incident_rows import AuditRow
from sojourn.gateways.postgres.console.results import Result, failure, table, with_notice
from sojourn.gateways.postgres.console.rows import Column, Value, columns_of
from sojourn.gateways.postgres.console.selects import select
from sojourn.gateways.postgres.console.shows import (
    DRIVER_SETTINGS,
    columns,
    needed_tables,
    show,
    version_text,
)
from sojourn.gateways.postgres.console.view import ConsoleView, ShutdownMode
from sojourn.gateways.postgres.messages import SQLSTATE

_MODES: Final[tuple[ShutdownMode, ...]] = get_args(ShutdownMode)
_UNKNOWN: Final = "the console does not know this command"
_UTF8: Final = frozenset({"UTF8", "UTF-8", "UNICODE"})

_TAGS: Final = {
    "BEGIN": "BEGIN",
    "START": "START TRANSACTION",
    "COMMIT": "COMMIT",
    "END": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "ABORT": "ROLLBACK",
    "SAVEPOINT": "SAVEPOINT",
    "RELEASE": "RELEASE",
    "RESET": "RESET",
    "DEALLOCATE": "DEALLOCATE",
    "CLOSE": "CLOSE CURSOR",
    "UNLISTEN": "UNLISTEN",
}
"""What drivers and their pools say around everything; there is nothing that it could change here."""


class Console:
    """The console of one process.

    Life: made by the engine with its view of itself, kept as long as the gateway; serves any number of operators at
    once. Always true: it keeps nothing of an operator, so that every command stands alone.
    """

    def __init__(self, view: ConsoleView, *, database: str = "sojourn") -> None:
        self._view = view
        self._database = database
        self._averages = Averages()
        self._actions: dict[str, Callable[[Command], Awaitable[Result]]] = {
            "PAUSE": self._for_database(view.pause),
            "RESUME": self._for_database(view.resume),
            "RECONNECT": self._for_database(view.reconnect),
            "KILL": self._for_database(view.kill),
            "WAIT_CLOSE": self._for_database(view.wait_close),
            "DISABLE": self._for_one_database(view.disable),
            "ENABLE": self._for_one_database(view.enable),
            "RELOAD": self._reload,
            "KILL_CLIENT": self._kill_client,
            "SWITCHOVER": self._switchover,
            "AUDIT": self._audit,
            "SHUTDOWN": self._shutdown,
            "SUSPEND": self._suspend,
        }

    def is_due(self, now: float) -> bool:
        """Say whether a minute of averages is over; cheap, for every sweep."""
        return self._averages.is_due(now)

    async def tick(self, now: float) -> None:
        """Take note of the totals when a minute of averages is over."""
        view, _ = await self._view.whole(("stats",))
        self._averages.tick(now, view.stats())

    async def execute(
        self, sql: bytes, is_admin: bool, after: Callable[[Command], None] | None = None
    ) -> bytes:
        """Return the answer to one simple query, without ReadyForQuery; a failure ends the string of commands.

        ``after`` is called with each command that succeeded.
        """
        answers: list[bytes] = []
        try:
            for command in commands(sql):
                result = await self.run(command, is_admin=is_admin)
                answers.append(result.messages())
                if after is not None:
                    after(command)
        except (SojournError, TimeoutError) as error:
            answers.append(failure(error))
        return b"".join(answers) or wire.empty_query_response()

    async def run(self, command: Command, *, is_admin: bool) -> Result:
        """Carry out one command.

        Raises: Refusal; what the view raises.
        """
        action = self._actions.get(command.verb)
        if action is None:
            return await self._statement(command, is_admin)
        if not is_admin:
            refuse(
                f"only admin users may {command.verb}",
                SQLSTATE.INSUFFICIENT_PRIVILEGE,
                hint="Users of console.stats_users may SHOW only; console.admin_users may do everything.",
            )
        return await action(command)

    def columns(self, command: Command) -> tuple[Column, ...] | None:
        """Return the columns that a command will answer with; None if it answers without rows.

        Raises: Refusal for a command that is none.
        """
        match command.verb:
            case "SHOW":
                return columns(command, self._view, self._averages)
            case "SELECT":
                return select(command, self._functions()).columns
            case "AUDIT":
                return columns_of(AuditRow)
        if command.verb not in self._actions and command.verb not in {"SET", "DISCARD", *_TAGS}:
            refuse(_UNKNOWN)
        return None

    # What only tells, or does nothing

    async def _statement(self, command: Command, is_admin: bool) -> Result:
        match command.verb:
            case "SHOW":
                view, missing = await self._view.whole(needed_tables(command))
                return with_notice(show(command, view, self._averages), missing)
            case "SELECT":
                return select(command, self._functions())
            case "SET":
                return await self._set(command, is_admin)
            case "DISCARD":
                return Result(" ".join(("DISCARD", *command.keywords[:1])))
            case verb if verb in _TAGS:
                return Result(_TAGS[verb])
            case _:
                return refuse(_UNKNOWN)

    def _functions(self) -> dict[str, Value]:
        return {
            "version": version_text(self._view),
            "current_database": self._database,
            "current_catalog": self._database,
            "current_schema": "",
            "pg_is_in_recovery": "f",
            "pg_advisory_unlock_all": "",
        }

    # What changes something

    async def _set(self, command: Command, is_admin: bool) -> Result:
        key, value = assignment(command)
        row = next((row for row in self._view.config() if row.key == key), None)
        if row is None:
            if key == "client_encoding" and value.upper() not in _UTF8:
                refuse("the console speaks UTF8 only", SQLSTATE.FEATURE_NOT_SUPPORTED, hint="")
            if value and key not in DRIVER_SETTINGS:
                refuse("there is no setting of this name", SQLSTATE.UNDEFINED_OBJECT, hint="See SHOW CONFIG.")
            return Result("SET")
        if not is_admin:
            refuse("only admin users may SET a setting", SQLSTATE.INSUFFICIENT_PRIVILEGE, hint="")
        if row.changeable != "yes":
            refuse(
                "this setting cannot be changed in the running process",
                SQLSTATE.CANNOT_CHANGE_PARAMETER,
                hint="Change it in the configuration, then RELOAD or restart; see changeable in SHOW CONFIG.",
            )
        await self._view.set_setting(key, value)
        return Result("SET")

    @staticmethod
    def _for_database(
        action: Callable[[str | None], Awaitable[None]],
    ) -> Callable[[Command], Awaitable[Result]]:
        async def perform(command: Command) -> Result:
            await action(optional_name(command))
            return Result(command.verb)

        return perform

    @staticmethod
    def _for_one_database(action: Callable[[str], Awaitable[None]]) -> Callable[[Command], Awaitable[Result]]:
        async def perform(command: Command) -> Result:
            await action(one_name(command, f"{command.verb} database"))
            return Result(command.verb)

        return perform

    async def _reload(self, command: Command) -> Result:
        no_argument(command)
        await self._view.reload()
        return Result("RELOAD")

    async def _kill_client(self, command: Command) -> Result:
        form = "KILL_CLIENT id, with an id of SHOW CLIENTS"
        text = one_name(command, form)
        if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004 - digits of an int8
            refuse(f"the form is: {form}")
        await self._view.kill_client(int(text))
        return Result("KILL_CLIENT")

    async def _switchover(self, command: Command) -> Result:
        match command.rest:
            case (cluster,) if cluster.kind != MARK:
                primary = await self._view.switchover(cluster.text, None)
            case (cluster, _, node) if command.keywords[1] == "TO" and MARK not in {cluster.kind, node.kind}:
                primary = await self._view.switchover(cluster.text, node.text)
            case _:
                refuse("the form is: SWITCHOVER cluster [TO node]")
        notice = wire.notice_response("00000", f"the primary is now {primary}", severity="NOTICE")
        return Result("SWITCHOVER", notice=notice)

    async def _audit(self, command: Command) -> Result:
        rows, missing = await self._view.audit(optional_name(command))
        return with_notice(table(AuditRow, rows, "AUDIT"), missing)

    async def _shutdown(self, command: Command) -> Result:
        word = " ".join(command.keywords)
        mode = next((mode for mode in _MODES if mode == word), None)
        if mode is None or (command.rest and not word):
            refuse("the form is: SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]")
        await self._view.shutdown(mode)
        return Result("SHUTDOWN")

    async def _suspend(self, _command: Command) -> Result:
        refuse(
            "SUSPEND is not needed: connections are never handed to another process",
            SQLSTATE.FEATURE_NOT_SUPPORTED,
            hint="PAUSE holds clients; SHUTDOWN WAIT_FOR_CLIENTS lets another process take over.",
        )
