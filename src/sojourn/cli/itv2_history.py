"""``sojourn itv2 history``, ``anonymise`` and ``replay``: what panels did, and captures of what they said."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from sojourn.cli.options import ConfigOption, load_config
from sojourn.cli.output import FAILED, print_error, print_note, print_table, print_text
from sojourn.cli.secret_input import read_optional_secret
from sojourn.core.clock import utc_now
from sojourn.errors import WireError
from sojourn.gateways.itv2.capture import Anonymiser, Converter, read_packet
from sojourn.gateways.itv2.events import KINDS
from sojourn.gateways.itv2.history import Entry, HistoryQuery, HistorySettings
from sojourn.gateways.itv2.history.export import export_pages, time_text
from sojourn.gateways.itv2.history.search import HistoryReader
from sojourn.gateways.itv2.messages import Packet
from sojourn.gateways.itv2.wire import TLinkFraming, words_of_message
from sojourn.testing.capture import CaptureLine, read_capture
from sojourn.testing.capture import replay as run_capture


class Format(StrEnum):
    """How entries are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


class Source(StrEnum):
    """How we came to know of an event."""

    LIVE = "live"
    PULL = "pull"
    REPLAY = "replay"


_encode = msgspec.json.Encoder().encode
_AGE: Final = re.compile(r"^([0-9]{1,6})([smhdw])$")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

CaptureArgument = Annotated[
    Path, typer.Argument(metavar="CAPTURE", exists=True, dir_okay=False, help="JSON lines, one per packet.")
]
CapturesArgument = Annotated[
    list[Path],
    typer.Argument(metavar="CAPTURE...", exists=True, dir_okay=False, help="JSON lines, one per packet."),
]


def history(
    *,
    since: Annotated[
        str, typer.Option(help="From when on: 90s, 15m, 6h, 3d, 2w ago, or 2026-12-31T08:30; local time.")
    ] = "",
    until: Annotated[str, typer.Option(help="Until when, as --since.")] = "",
    panel: Annotated[list[str] | None, typer.Option("--panel", "-p", help="Its name. Repeatable.")] = None,
    partition: Annotated[str, typer.Option(help="Its number or its name.")] = "",
    zone: Annotated[str, typer.Option("--zone", "-z", help="Its number or its name.")] = "",
    user: Annotated[str, typer.Option("--user", "-u", help="The number or the name.")] = "",
    kind: Annotated[
        list[str] | None, typer.Option("--kind", "-k", help="Such as zone_opened or armed. Repeatable.")
    ] = None,
    source: Annotated[list[Source] | None, typer.Option(help="How we know of it. Repeatable.")] = None,
    asker: Annotated[str, typer.Option(help="Who gave orders through us: the name of a token.")] = "",
    form: Annotated[
        Format, typer.Option("--format", "-f", help="csv and jsonl print everything.")
    ] = Format.TABLE,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows of the table.")] = 100,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="The oldest in front.")] = False,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The history; by default that of the configuration.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Search what happened at the panels, with the names of that time; the daemon may be running or not."""
    for one in kind or ():
        if one not in KINDS:
            raise typer.BadParameter(f"no kind is called {one!r}; there are: {', '.join(KINDS)}")
    query = HistoryQuery(
        since_ms=_moment_ms(since, "--since"),
        until_ms=_moment_ms(until, "--until"),
        panels=tuple(panel or ()),
        partition=_number(partition),
        partition_label=_label(partition),
        zone=_number(zone),
        zone_label=_label(zone),
        user=_number(user),
        user_label=_label(user),
        kinds=tuple(kind or ()),
        sources=tuple(one.value for one in source or ()),
        asker=asker,
        is_oldest_first=oldest_first,
        limit_count=limit,
    )
    with HistoryReader(file or _configured(config)) as reader:
        if form is Format.TABLE:
            _print_table(reader, query)
            return
        for part in export_pages(reader.search, query, "csv" if form is Format.CSV else "jsonl"):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


def anonymise(
    capture: CaptureArgument,
    key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the panel's access code, Type 1 or 2.")
    ] = None,
    key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable with the same.")] = None,
    keep_unread: Annotated[
        bool,
        typer.Option("--keep-unread", help="Keep bodies that nobody can read yet; they may hold codes."),
    ] = False,
) -> None:
    """Decrypt a capture of a connection and replace ids, codes, names and keys, so that it may be shown."""
    secret = read_optional_secret(env=key_env, file=key_file)
    converter = Converter(None if secret is None else secret.reveal(), Anonymiser(keeps_unread=keep_unread))
    errors_count = 0
    for found in run_capture(read_capture(capture), TLinkFraming, converter.convert):
        if isinstance(found.message, WireError):
            errors_count += 1
        else:
            print_text(_encode(CaptureLine(found.at_s, found.direction, found.message.hex())).decode())
    if errors_count:
        print_note(
            f"{errors_count} packets could not be read and were left out; is it the right access code?"
        )
        raise typer.Exit(FAILED)


def replay(captures: CapturesArgument) -> None:
    """Run captures in clear against the codec and show every packet; exit code 1 if one could not be read."""
    errors_count = sum([_replay(capture, is_one_of_many=len(captures) > 1) for capture in captures])
    if errors_count:
        raise typer.Exit(FAILED)


def _replay(capture: Path, *, is_one_of_many: bool) -> int:
    """Show the packets of one capture; return how many could not be read."""
    errors_count = 0
    rows = []
    if is_one_of_many:
        print_text(f"{capture}:")
    for found in run_capture(read_capture(capture), TLinkFraming, read_packet):
        who = "panel" if found.direction == "in" else "server"
        if isinstance(found.message, WireError):
            errors_count += 1
            rows.append((f"{found.at_s:.3f}", who, "", "unreadable", str(found.message)))
        else:
            packet: Packet = found.message
            name = type(packet.message).__name__
            numbers = f"{packet.sender} {packet.receiver}"
            rows.append((f"{found.at_s:.3f}", who, numbers, name, words_of_message(packet.message)))
    print_table(("seconds", "from", "numbers", "message", "what"), rows)
    if errors_count:
        where = f" in {capture}" if is_one_of_many else ""
        print_error(f"{errors_count} of {len(rows)} packets could not be read{where}")
    return errors_count


def _print_table(reader: HistoryReader, query: HistoryQuery) -> None:
    rows: list[tuple[str, ...]] = []
    left_count = query.limit_count
    while True:
        page = reader.search(query)
        rows += map(_row, page.entries)
        left_count -= len(page.entries)
        if not page.cursor or left_count <= 0:
            break
        query = msgspec.structs.replace(query, cursor=page.cursor, limit_count=left_count)
    if not rows:
        print_note("nothing was found")
        return
    print_table(("time", "panel", "what", "partition", "zone", "user", "detail"), rows)
    if page.cursor:
        print_note("there is more: ask for it with --limit, or narrow it with --since, --zone and others")


def _row(entry: Entry) -> tuple[str, ...]:
    moment = local_time(entry.at_ms)
    return (
        f"{'~' if entry.is_approximate else ''}{moment}",
        entry.panel,
        entry.kind if entry.source == "live" else f"{entry.kind} ({entry.source})",
        _named(entry.partition, entry.partition_label),
        _named(entry.zone, entry.zone_label),
        _named(entry.user, entry.user_label),
        ", ".join(_details(entry)),
    )


def local_time(at_ms: int, timespec: str = "milliseconds") -> str:
    """Return a moment as this host's clocks show it, and how far they are from UTC."""
    try:
        moment = datetime.fromtimestamp(at_ms // 1_000).astimezone()
    except (OverflowError, OSError, ValueError):  # no calendar has it
        return time_text(at_ms)
    return moment.replace(microsecond=at_ms % 1_000 * 1_000).isoformat(sep=" ", timespec=timespec)


def _details(entry: Entry) -> Iterator[str]:
    if entry.asker:
        yield f"asker {entry.asker}"
    if entry.panel_time:
        yield f"panel's time {entry.panel_time}"
    for name, value in entry.detail.items():
        if value != "":
            yield f"{name.replace('_', ' ')} {_worded(value)}"


def _worded(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _named(number: int | None, label: str) -> str:
    return "" if number is None else f"{number} {label}".rstrip()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _label(text: str) -> str:
    return "" if _number(text) is not None else text


def length_s(text: str) -> int | None:
    """Return the seconds of a span such as 90s, 15m or 2w; None for anything else."""
    span = _AGE.match(text)
    return None if span is None else int(span[1]) * _UNIT_S[span[2]]


def _moment_ms(text: str, option: str) -> int | None:
    if not text:
        return None
    if (age_s := length_s(text)) is not None:
        moment = utc_now() - timedelta(seconds=age_s)
    else:
        try:
            moment = datetime.fromisoformat(text).astimezone()
        except ValueError:
            wanted = "an age such as 6h or 3d, or a time such as 2026-12-31T08:30"
            raise typer.BadParameter(f"{option}: found {text!r}, wanted {wanted}") from None
    return int(moment.timestamp() * 1_000)


def _configured(config: Path | None) -> Path:
    settings = getattr(load_config(config), "itv2", None)
    return Path((settings.history if settings is not None else HistorySettings()).file)
