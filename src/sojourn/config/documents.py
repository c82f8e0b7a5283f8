"""The example file and the reference page, made from the declarations so that they stay true.

Each setting is declared once, with help, unit and default beside it; these are two ways to write that down.
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import inspect

from sojourn.config.listing import toml_value
from sojourn.config.settings import SojournSettings
from sojourn.config.wording import (
    declared_type,
    default_of,
    first_sentence,
    metadata_of,
    unit_text,
    wanted_text,
)
from sojourn.core.secret import Secret

_WIDTH_CHARACTERS = 100
_EXAMPLE_HEAD = """\
# sojourn.toml: every setting with its help, unit and default.
#
# A line that begins with "#" and no space is a setting that is left at its default, or a table that is
# left out: remove the "#" to use it. Check the result with: sojourn check
# The environment can override every setting: SOJOURN__LOG__LEVEL=debug is level in [log],
# SOJOURN__TACACS__LISTENERS__0__ADDRESS is address in the first [[tacacs.listeners]].
# Secrets are "${file:/path}" or "${env:NAME}"; a file of a secret must not be readable by everybody.
"""
_REFERENCE_HEAD = """\
# Settings

All settings of `sojourn.toml`. This page is made by `sojourn config reference` from the declarations that
the server itself reads its configuration with; `sojourn config example` writes them as a commented file,
`sojourn config show` prints what is in force.

- **Environment.** `SOJOURN__LOG__LEVEL=debug` overrides `level` in `[log]`; `__` separates names, a number is
  an item of a list: `SOJOURN__TACACS__LISTENERS__0__ADDRESS`. The number behind a list's last item adds one.
  Names are lower-cased. A list may be written with commas, or as TOML.
- **Secrets.** A whole value may be `"${file:/path}"` (one trailing newline is not part of it; a relative path
  starts at the configuration file's directory) or `"${env:NAME}"`. A secret that itself begins with `${` is
  written `$${`.
- **Problems.** All are reported at once, each with file, line, table, key, what was found and what is wanted;
  nothing is started then, and a running server keeps its old configuration.
"""


class _Table(NamedTuple):
    """One declared table. ``optional``: leaving it out means something else than its defaults."""

    header: str
    optional: bool
    help: str
    settings: tuple[inspect.Field, ...]


def example() -> str:
    """Return a commented ``sojourn.toml`` with every setting; it loads as it is and means the defaults."""
    lines = [_EXAMPLE_HEAD]
    for table in _tables(inspect.type_info(SojournSettings), "", "{}", "", optional=False):
        if table.header:
            lines += _comment(table.help)
            lines.append(("#" if table.optional else "") + table.header)
        for field in table.settings:
            lines += _comment(_help(field))
            lines.append(f"#{field.encode_name} = {toml_value(_sample(field))}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def reference_markdown() -> str:
    """Return the reference page: one section per table, one row per setting."""
    lines = [_REFERENCE_HEAD]
    for table in _tables(inspect.type_info(SojournSettings), "", "{}", "", optional=False):
        if not table.settings and not table.help:
            continue
        lines += [f"## `{table.header}`" if table.header else "## At the top of the file", "", table.help, ""]
        if table.settings:
            lines += ["| key | takes | default | meaning |", "|---|---|---|---|"]
            lines += [_row(field) for field in table.settings]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _tables(kind: inspect.Type, name: str, header: str, text: str, *, optional: bool) -> Iterator[_Table]:
    """Walk the declared tables in the order in which TOML can hold them."""
    if not isinstance(kind, inspect.StructType):
        return
    inner = [(field, *_inner_table(field)) for field in kind.fields]
    settings = tuple(field for field, struct, _ in inner if struct is None)
    meaning = text or first_sentence(kind.cls.__doc__)
    yield _Table(header.format(name) if name else "", optional, meaning, settings)
    for field, struct, is_list in inner:
        if struct is None:
            continue
        path = f"{name}.{field.encode_name}" if name else field.encode_name
        left_out = optional or is_list or field.required or default_of(field) is None
        help_text = metadata_of(field.type).get("description", "")
        yield from _tables(struct, path, "[[{}]]" if is_list else "[{}]", help_text, optional=left_out)


def _inner_table(field: inspect.Field) -> tuple[inspect.StructType | None, bool]:
    """Return the struct that a field is a table of, or a list of tables of."""
    kind = declared_type(field.type)
    if isinstance(kind, inspect.StructType):
        return kind, False
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        item = declared_type(kind.item_type)
        if isinstance(item, inspect.StructType):
            return item, True
    return None, False


def _help(field: inspect.Field) -> str:
    """Say what a setting means, takes and has as its unit."""
    notes = [wanted_text(field.type)]
    if unit := unit_text(field.encode_name):
        notes.append(unit)
    if field.required:
        notes.append("required")
    elif default_of(field) is None:
        notes.append("not set by default")
    return f"{_meaning(field)} ({'; '.join(notes)})"


def _meaning(field: inspect.Field) -> str:
    return str(metadata_of(field.type).get("description", ""))


def _row(field: inspect.Field) -> str:
    unit = unit_text(field.encode_name)
    takes = wanted_text(field.type) + (f", in {unit}" if unit else "")
    if field.required:
        default = "required"
    else:
        value = default_of(field)
        default = "not set" if value is None else f"`{toml_value(value)}`"
    cells = [f"`{field.encode_name}`", takes, default, _meaning(field)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sample(field: inspect.Field) -> Any:
    """Return the default, or where there is none, a value that shows the form."""
    if not field.required and default_of(field) is not None:
        return default_of(field)
    examples = metadata_of(field.type).get("examples")
    return examples[0] if examples else _made_up(field)


def _made_up(field: inspect.Field) -> Any:
    match declared_type(field.type):
        case inspect.CustomType(cls=cls) if cls is Secret:
            return f"${{file:/etc/sojourn/{field.encode_name}}}"
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.DateType():
            return datetime.date(2026, 12, 31)
        case inspect.StrType():
            return field.encode_name
        case inspect.BoolType():
            return False
        case inspect.IntType(ge=least) | inspect.FloatType(ge=least):
            return least or 1
        case _:
            return []


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH_CHARACTERS, break_on_hyphens=False)]
