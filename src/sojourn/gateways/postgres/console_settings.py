"""SHOW CONFIG and SET: our settings under PgBouncer's names, so that its scripts and exporters find them.

Each line of the table says where a setting is and whether the running process can change it. Secrets are in none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from sojourn.gateways.postgres.config import PostgresSettings
from sojourn.gateways.postgres.console.rows import ConfigRow
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal

if TYPE_CHECKING:
    from sojourn.core.settings import Settings


class _Place(NamedTuple):
    """Where a setting is: the name of its table (empty: the gateway's own) and its key."""

    table: str
    key: str
    is_changeable: bool = False


_PLACES: Final = {
    "admin_users": _Place("console", "admin_users"),
    "audit": _Place("", "audit", is_changeable=True),
    "auth_file": _Place("auth", "userlist_file"),
    "auth_hba_file": _Place("auth", "hba_file"),
    "auth_query": _Place("auth", "query"),
    "auth_type": _Place("auth", "method"),
    "auth_user": _Place("auth", "query_user"),
    "cancel_wait_timeout": _Place("timeouts", "cancel_wait_timeout_s", is_changeable=True),
    "client_idle_timeout": _Place("timeouts", "client_idle_timeout_s", is_changeable=True),
    "client_login_timeout": _Place("timeouts", "client_login_timeout_s", is_changeable=True),
    "default_pool_size": _Place("pool", "size_count", is_changeable=True),
    "idle_transaction_timeout": _Place("timeouts", "idle_in_transaction_timeout_s", is_changeable=True),
    "ignore_startup_parameters": _Place("pool", "ignore_startup_parameters"),
    "max_client_conn": _Place("limits", "connections_count", is_changeable=True),
    "max_db_connections": _Place("pool", "max_database_connections_count", is_changeable=True),
    "max_packet_size": _Place("", "max_packet_bytes"),
    "max_prepared_statements": _Place("pool", "max_prepared_statements_count", is_changeable=True),
    "max_user_connections": _Place("pool", "max_user_connections_count", is_changeable=True),
    "min_pool_size": _Place("pool", "min_size_count", is_changeable=True),
    "pool_mode": _Place("pool", "mode"),
    "query_timeout": _Place("timeouts", "query_timeout_s", is_changeable=True),
    "query_wait_timeout": _Place("pool", "queue_timeout_s", is_changeable=True),
    "reserve_pool_size": _Place("pool", "reserve_size_count", is_changeable=True),
    "reserve_pool_timeout": _Place("pool", "reserve_timeout_s", is_changeable=True),
    "server_check_delay": _Place("pool", "server_check_delay_s", is_changeable=True),
    "server_connect_timeout": _Place("pool", "server_connect_timeout_s", is_changeable=True),
    "server_idle_timeout": _Place("pool", "server_idle_timeout_s", is_changeable=True),
    "server_lifetime": _Place("pool", "server_lifetime_s", is_changeable=True),
    "server_login_retry": _Place("pool", "server_login_retry_s", is_changeable=True),
    "server_reset_query": _Place("pool", "server_reset_query", is_changeable=True),
    "stats_users": _Place("console", "stats_users"),
    "transaction_timeout": _Place("timeouts", "transaction_timeout_s", is_changeable=True),
    "workers_count": _Place("", "workers_count"),
}


def config(settings: PostgresSettings) -> list[ConfigRow]:
    """Return the rows of ``SHOW CONFIG``."""
    defaults = PostgresSettings()
    return [
        ConfigRow(
            key=key,
            value=_shown(_value(settings, place)),
            default=_shown(_value(defaults, place)),
            changeable="yes" if place.is_changeable else "no",
        )
        for key, place in _PLACES.items()
    ]


def changed(settings: PostgresSettings, key: str, value: str) -> PostgresSettings:
    """Return settings with one of them changed.

    Raises: Refusal for a value that is none for it.
    """
    place = _PLACES[key]
    table: Settings = getattr(settings, place.table) if place.table else settings
    kinds = {field.name: field.type for field in msgspec.structs.fields(type(table))}
    try:
        found = _read(value, kinds[place.key])
    except (msgspec.ValidationError, ValueError):
        raise Refusal(
            SQLSTATE.INVALID_PARAMETER_VALUE,
            f"{value!r} is no value for {key}",
            hint=_wanted(kinds[place.key]),
            severity="ERROR",
        ) from None
    table = msgspec.structs.replace(table, **{place.key: found})
    new = msgspec.structs.replace(settings, **{place.table: table}) if place.table else table
    assert isinstance(new, PostgresSettings)  # noqa: S101 - the table without a name is the whole
    return new


def _read(value: str, kind: Any) -> object:
    """Read a value as in the configuration, where a number is never infinite.

    Raises: msgspec.ValidationError, ValueError.
    """
    found = msgspec.convert(value, kind, strict=False)
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError(value)
    return cast("object", found)


def _wanted(kind: object) -> str:
    """Say in words what a setting of this kind takes."""
    info = msgspec.inspect.type_info(kind)
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    match info:
        case msgspec.inspect.LiteralType(values=values):
            return "One of " + ", ".join(map(str, values)) + "."
        case msgspec.inspect.IntType(ge=least, le=most):
            what = "A whole number"
        case msgspec.inspect.FloatType(ge=least, gt=above, le=most):
            what = "A number of seconds"
            if above is not None:
                return f"{what}, more than {above:g}."
        case msgspec.inspect.BoolType():
            return "true or false."
        case _:
            return "A text."
    text = what if least is None else f"{what}, {least:g} or more"
    return text + (f", {most:g} at most." if most is not None else ".")


def _value(settings: PostgresSettings, place: _Place) -> object:
    return getattr(getattr(settings, place.table) if place.table else settings, place.key)


def _shown(value: object) -> str:
    match value:
        case tuple():
            return ", ".join(map(str, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)
