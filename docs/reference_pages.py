"""Writes the reference pages that are read off the code: settings, command line, admin API, metrics and events.

Run by ``conf.py`` before each build, so that they cannot be out of date; they are not kept in the repository.
"""
# ruff: noqa: ANN401, INP001 - click's commands come without types; Sphinx's folder is no package

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import admin_pages
import exchange_pages
import itv2_pages
import itv2_values
from page_rows import cell

import sojourn.app
from sojourn.cli.main import app
from sojourn.config import reference_markdown
from sojourn.core.events import EventKind
from sojourn.core.metrics import Together, figures
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.gateways.postgres.auth import Credentials
from sojourn.gateways.postgres.config import Cluster, Database, NodeSettings, PostgresSettings
from sojourn.gateways.postgres.gateway import PostgresGateway
from sojourn.gateways.tacacs.config import (
    Accounting,
    Device,
    FileSink,
    SharedSecret,
    TacacsSettings,
)
from sojourn.gateways.tacacs.gateway import TacacsGateway

FOLDER = Path(__file__).resolve().parent / "reference"
SOURCES = Path(sojourn.app.__file__).resolve().parent

_CLI_HEAD = """\
# Command line

Made from the commands themselves; `sojourn COMMAND --help` says the same. Exit codes: 0 fine (for `explain`: permit), 1
failed (for `explain`: deny; for `probe`: something was refused), 2 bad usage or a configuration with problems.

Secrets are never arguments, which other users of the machine can read: they are asked for, or come from a file
(`--...-file`, `-` is standard input) or a variable (`--...-env`).
"""
_METRICS_HEAD = """\
# Metrics and events

## Metrics

Served at `/metrics` in Prometheus' text format, with those of the process (`process_...`, `python_info`). Without
`metrics_without_token` in `[admin]` they need the token.

Several workers (`workers_count`) are scraped as one, at the first of them: counters and gauges are sums, what is told
of a cluster is the first worker's word, and figures of processes have a label `worker`. A worker that does not answer
within 2 seconds is missing from gauges; its counters, and those of workers that are gone, stay in the sums.

| metric | type | labels | meaning |
|---|---|---|---|
"""
_EVENTS_HEAD = """\

## Events

What happened is an event first; a log line and `sojourn_events_total{kind="..."}` are views of it. Each line of the log
has `timestamp`, `level`, `event`, the fields below, `session` where it concerns one, and `count` where it stands for
several like it. No event holds a secret.

| event | level | fields | meaning |
|---|---|---|---|
"""

_MEANINGS = {
    "breaker.changed": "The circuit of a backend's address opened, closed, or is being probed.",
    "exchange.auth_keys_changed": "The issuer's public keys were fetched and are others than before.",
    "exchange.embedded_started": "A PostgreSQL or Valkey of our own runs.",
    "exchange.pod_leaving": "The pod begins to hand its sessions over and to send its clients away.",
    "listener.handshake_failed": "A peer did not get through the TLS handshake or the PROXY header in time.",
    "listener.started": "An address is bound; connections are accepted from now on.",
    "listener.started_in_memory": "As `listener.started`, within the process: for tests.",
    "postgres.connect_failed": "A server was not reached, or refused our login; it is tried again, later each time.",
    "postgres.login_failed": "A client did not prove that it is who it says, or no rule lets it in.",
    "postgres.client_refused": "A client was told no for another reason: a limit, a deadline, no such database.",
    "postgres.server_opened": "A connection to a server is there.",
    "postgres.worker_replaced": "A worker's place was taken by a new one, after SIGUSR2.",
    "server.draining": "The server stops: nothing new is accepted, sessions in flight may finish.",
    "server.loop_error": "A bug of ours, or of the event loop: something failed that no session owns.",
    "server.reloaded": "The configuration was read again and is in force.",
    "server.started": "All gateways are open and listen.",
    "server.few_descriptors": "The process may open fewer connections than may come; the rest is closed unread.",
    "server.stopped": "Nothing is left open.",
    "tacacs.accounting": "An accounting record was stored (`success`) or not (`error`), and why.",
    "tacacs.authentication": "A login, ENABLE or change of a password: `pass`, `fail` or `error`, and why.",
    "tacacs.authorization": "A session or command: `permit`, `deny` or `error`, the rule, and why.",
    "sojourn_exchange_auth_degraded": "1: tokens that are new to us cannot be checked; 0: they can.",
    "sojourn_exchange_auth_refused_total": "Tokens and tickets that were refused, by reason.",
    "sojourn_exchange_backend_up": "1: a backend, such as the database or the bus, answers; 0: it does not.",
    "sojourn_exchange_events_waiting": "Events of sessions that this pod owns, which the log has not taken yet.",
    "sojourn_exchange_http_rate_refused_total": "Requests refused because too many came, per address or subject.",
    "sojourn_exchange_http_request_seconds_bucket": "Requests that took at most `le` seconds, as of a histogram.",
    "sojourn_exchange_http_request_seconds_count": "Requests whose time is in the sum.",
    "sojourn_exchange_http_request_seconds_sum": "Seconds that requests took together.",
    "sojourn_exchange_http_requests_in_flight": "Requests that are being served.",
    "sojourn_exchange_http_requests_total": "Requests served.",
    "sojourn_exchange_links": "WebSockets of clients.",
    "sojourn_exchange_links_closed_total": "WebSockets that ended, by close code.",
    "sojourn_exchange_links_opened_total": "WebSockets opened.",
    "sojourn_exchange_pods": "Pods that this one knows to live, itself included.",
    "sojourn_exchange_ready": "1: new sessions are welcome; 0: they are not.",
    "sojourn_exchange_rooms": "Sessions that this pod serves: its own, and those of other pods with a client here.",
    "sojourn_exchange_sessions_adopted_total": "Sessions that were nobody's and are this pod's since.",
    "sojourn_exchange_sessions_expired_total": "Sessions that this pod ended because their time was up.",
    "sojourn_exchange_sessions_owned": "Sessions that this pod owns.",
    "sojourn_exchange_simulators": "Simulators of the sessions that this pod owns, by state.",
    "sojourn_itv2_handshake_failures_total": "Connections that came to nothing, by what the doctor saw.",
    "sojourn_itv2_history_commit_seconds_total": "Seconds that writing to the history's file took together.",
    "sojourn_itv2_history_commits_total": "Writes to the history's file; one holds all events that waited.",
    "sojourn_itv2_history_degraded": "1: events cannot be stored and wait in memory; 0: they can.",
    "sojourn_itv2_history_events_total": "Events that were stored, lost for want of memory, or refused by the file.",
    "sojourn_itv2_history_failures_total": "Writes to the history's file that failed.",
    "sojourn_itv2_history_waiting": "Events that wait to be stored.",
    "sojourn_itv2_http_rate_refused_total": "Requests refused because too many came, per address or token.",
    "sojourn_itv2_http_request_seconds_bucket": "Requests that took at most `le` seconds, as of a histogram.",
    "sojourn_itv2_http_request_seconds_count": "Requests whose time is in the sum.",
    "sojourn_itv2_http_request_seconds_sum": "Seconds that requests took together.",
    "sojourn_itv2_http_requests_in_flight": "Requests that are being served.",
    "sojourn_itv2_http_requests_total": "Requests served.",
    "sojourn_itv2_links": "WebSockets of clients.",
    "sojourn_itv2_links_opened_total": "WebSockets opened.",
    "sojourn_itv2_mqtt_commands_total": "Messages on command topics that led to a command.",
    "sojourn_itv2_mqtt_dropped_total": "Events that were not published: the broker was away for too long.",
    "sojourn_itv2_mqtt_is_connected": "1: the MQTT broker lets us publish; 0: it does not.",
    "sojourn_itv2_mqtt_published_total": "Messages that the broker was given.",
    "sojourn_itv2_panel_is_connected": "1: the panel has a session; 0: its state is stale.",
    "sojourn_itv2_panel_recent_failures": "Failed handshakes of the panel within `limits.failures_window_s`.",
    "sojourn_itv2_tokens_refused_total": "Requests without a token, or with one that is not good.",
    "sojourn_offload_failed_total": "Slow calls, such as password hashes, that raised an error.",
    "sojourn_offload_refused_total": "Slow calls that were refused because too many waited.",
    "sojourn_offload_submitted_total": "Slow calls given to the pool of threads.",
    "sojourn_offload_timed_out_total": "Slow calls that took longer than they may.",
    "sojourn_postgres_clients": "Clients that are logged in.",
    "sojourn_postgres_clients_waiting": "Clients that wait for a server, at their login too.",
    "sojourn_postgres_incidents_total": "Times that a cluster was without a primary, or changed it.",
    "sojourn_postgres_losses_total": "Clients whose server was lost, by the row of the retry table that decided.",
    "sojourn_postgres_node_is_primary": "1: new transactions go there.",
    "sojourn_postgres_node_lag_bytes": "Write-ahead log that a replica has yet to replay.",
    "sojourn_postgres_queries_total": "Requests that servers answered.",
    "sojourn_postgres_servers": "Connections to servers.",
    "sojourn_postgres_servers_busy": "Connections to servers that somebody uses.",
    "sojourn_postgres_transactions_total": "Transactions that ended.",
    "sojourn_tacacs_key_age_days": "Days since the device key's `since`; the key is its place in `secrets`.",
    "sojourn_tacacs_key_last_used_timestamp_seconds": "When the device key last opened a packet, Unix time; 0: never.",
    "sojourn_tacacs_locked_users": "Users who are locked out for guessing.",
    "sojourn_tacacs_sink_is_up": "1: the accounting sink stores records; 0: it does not.",
    "sojourn_tacacs_sink_stored_total": "Records that the accounting sink has stored.",
    "sojourn_tacacs_sink_waiting": "Records that wait for the accounting sink.",
    "sojourn_workers_answered": "Workers whose figures are in this scrape; only where there are several.",
}
"""Where the source says nothing, or less than an operator wants to know."""


class EventWords(NamedTuple):
    """What the sources say about one kind of event: the name of its constant, the text below it, and its module."""

    constant: str
    meaning: str
    module: str


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {
        "settings.md": reference_markdown(),
        "command-line.md": command_line_page(),
        "metrics-and-events.md": metrics_and_events_page(),
        **admin_pages.pages(),
        **exchange_pages.pages(),
        **itv2_pages.pages(),
        **itv2_values.pages(),
    }


def write_pages() -> None:
    """Write the pages that have changed."""
    for name, text in pages().items():
        page = FOLDER / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


# Command line


def command_line_page() -> str:
    """Return one section per command, one row per option."""
    import typer.main  # noqa: PLC0415 - typer is the command line's; here it is asked for its click commands

    return _CLI_HEAD + "".join(_command_sections(typer.main.get_command(app), "sojourn"))


def _command_sections(command: Any, name: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    for child_name, child in sorted(children.items()):
        yield from _command_sections(child, f"{name} {child_name}")
    if children:
        return
    arguments = " ".join(_metavar(one) for one in command.params if one.param_type_name == "argument")
    yield (
        f"\n## `{name}`\n\n```text\n{name} [OPTIONS] {arguments}".rstrip()
        + f"\n```\n\n{command.help or ''}\n"
    )
    rows = [_parameter_row(one) for one in command.params if one.name != "help"]
    if rows:
        yield "\n".join(["", "| option | default | meaning |", "|---|---|---|", *rows, ""])


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _parameter_row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [_metavar(parameter)] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    shown = ", ".join(f"`{name}`" for name in names)
    if not is_argument and not parameter.is_flag:
        shown += f" {_metavar(parameter)}" if parameter.metavar else ""
    default = parameter.default
    is_shown = not parameter.required and default not in (None, "", False, [], ()) and not callable(default)
    shown_default = (
        "required" if parameter.required else f"`{getattr(default, 'value', default)}`" if is_shown else ""
    )
    meaning = (parameter.help or "") + (f" (`{parameter.envvar}`)" if parameter.envvar else "")
    return f"| {shown} | {shown_default} | {cell(meaning)} |"


# Metrics and events


def metrics_and_events_page() -> str:
    """Return the metrics of a server with every gateway, and every kind of event."""
    return "".join(
        (
            _METRICS_HEAD,
            *(_metric_row(*metric) for metric in (*metrics(), *metrics_of_sources())),
            _EVENTS_HEAD,
            *(_event_row(kind) for kind in sorted(_kinds(), key=lambda kind: kind.name)),
        )
    )


def metrics() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, labels and help of each metric that a server shows."""
    lines = asyncio.run(_scrape()).splitlines()
    helps = {line.split()[2]: line.split(maxsplit=3)[3] for line in lines if line.startswith("# HELP")}
    types = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    labels: dict[str, str] = {}
    for line in lines:
        if not line.startswith("#"):
            name, brace, rest = line.partition("{")
            found = [pair.partition("=")[0] for pair in rest.partition("}")[0].split(",")] if brace else []
            labels.setdefault(name.split()[0], ", ".join(f"`{label}`" for label in found))
    for name, text in helps.items():
        if name.startswith("sojourn_"):
            yield name, types[name], labels.get(name, ""), text


async def _scrape() -> str:
    """Start a server that has one of each, look once, stop it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TacacsSettings(
            devices=(
                Device(
                    name="device", networks=("192.0.2.1",), secrets=(SharedSecret(value=Secret("k" * 32)),)
                ),
            ),
            accounting=Accounting(files=(FileSink(name="records", path=f"{folder}/records"),)),
        )
        server = Server()
        server.add(TacacsGateway(settings))
        postgres = PostgresGateway(_postgres())
        server.add(postgres)
        await server.start()
        try:
            postgres.pools.of(_postgres().databases[0], "shop", "ana", Credentials("ana"))
            postgres.count_loss("unsent")
            with server.breakers.guard("ldaps://ldap.example.net"):
                return Together().text({0: (0, figures(server))}, lambda _pid: True).decode()
        finally:
            await server.stop()


def _postgres() -> PostgresSettings:
    return PostgresSettings(
        clusters=(Cluster(name="main", nodes=(NodeSettings(name="db-1", address="192.0.2.1:5432"),)),),
        databases=(Database(name="shop", cluster="main"),),
    )


def metrics_of_sources() -> Iterator[tuple[str, str, str, str]]:
    """Yield the same of gateways that need a database, clients or panels to show something, read off their sources."""
    for gateway in ("exchange", "itv2"):
        yield from metrics_of(gateway)
    ours = _yielded(SOURCES / "web")
    for prefix in ("sojourn_exchange", "sojourn_itv2"):
        yield from _told_of({name.replace("{prefix}", prefix): labels for name, labels in ours.items()})


def metrics_of(gateway: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield the metrics of a gateway's own sources."""
    yield from _told_of(_yielded(SOURCES / "gateways" / gateway))


def _told_of(found: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for name, labels in sorted(found.items()):
        kind = "counter" if name.endswith(("_total", "_bucket", "_count", "_sum")) else "gauge"
        yield name, kind, labels, name.replace("_", " ")


def _yielded(folder: Path) -> dict[str, str]:
    """Return the labels of each metric that sources yield; ``{prefix}`` stands where the gateway's is put."""
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        dicts = {
            ast.unparse(target): node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
            for target in node.targets
        }
        for node in ast.walk(tree):
            match node:
                case ast.Yield(value=ast.Tuple(elts=[ast.Constant() | ast.JoinedStr() as called, labels, _])):
                    name = ast.unparse(called).removeprefix("f").strip("'")
                    named = labels if isinstance(labels, ast.Dict) else dicts.get(ast.unparse(labels))
                    if named is not None and name.startswith(("sojourn_", "{prefix}_")):
                        keys = (ast.literal_eval(key) for key in named.keys if key is not None)
                        found[name] = ", ".join(f"`{key}`" for key in keys)
    return found


def _metric_row(name: str, kind: str, labels: str, text: str) -> str:
    return f"| `{name}` | {kind} | {labels} | {cell(_MEANINGS.get(name, text))} |\n"


def _kinds() -> list[EventKind]:
    """Return the kinds that the sources declare; a process of tests has others besides."""
    for module in {words.module for words in event_words().values()}:
        importlib.import_module(module)  # a kind is known once its module is loaded, and some are loaded late
    return [kind for kind in EventKind.all if kind.name in event_words()]


def _event_row(kind: EventKind) -> str:
    words = event_words().get(kind.name)
    fields = ", ".join(f"`{field}`" for field in kind.fields)
    meaning = (words.meaning if words else "") or _MEANINGS.get(kind.name, "")
    return f"| `{kind.name}` | {kind.level} | {fields} | {cell(meaning)} |\n"


@functools.cache
def event_words() -> dict[str, EventWords]:
    """Return what stands in the sources about each kind of event, by its name."""
    found: dict[str, EventWords] = {}
    for file in sorted(SOURCES.rglob("*.py")):
        module = ".".join(("sojourn", *file.relative_to(SOURCES).with_suffix("").parts))
        body = ast.parse(file.read_text(encoding="utf-8")).body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=constant)], value=ast.Call() as call)
                    | ast.AnnAssign(target=ast.Name(id=constant), value=ast.Call() as call)
                ) if ast.unparse(call.func) == "EventKind":
                    name = ast.literal_eval(call.args[0])
                    found[name] = EventWords(constant, _text_of(following), module)
    return found


def _text_of(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split())
    return ""


if __name__ == "__main__":
    write_pages()
