"""From ``sojourn.toml`` and the environment to settings, or to all the problems at once.

Knows nothing of which settings there are; starts nothing.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sojourn.config.convert import Conversion
from sojourn.config.environment import apply_environment
from sojourn.config.origins import Origins
from sojourn.config.positions import find_positions
from sojourn.config.references import References
from sojourn.config.settings import SojournSettings
from sojourn.errors import ConfigError, Problem

_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: Path | None, environ: Mapping[str, str], *, only: str | None = None) -> SojournSettings:
    """Read a configuration file, with the environment's overrides over it.

    Args:
        path: the file; none means defaults and environment only.
        environ: usually ``os.environ``.
        only: as of :func:`load_text`.
    Raises: ConfigError with every problem that there is.
    """
    if path is None:
        return load_text("", "(no file)", environ, only=only)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        found, wanted = error.strerror or "an unreadable file", "a file that this process can read"
        raise ConfigError([Problem(str(path), 0, "", "(file)", found, wanted)]) from error
    except UnicodeDecodeError as error:
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        found, wanted = "bytes that are not UTF-8", "UTF-8"
        raise ConfigError([Problem(str(path), line, "", "(syntax)", found, wanted)]) from error
    return load_text(text, str(path), environ, only=only)


def load_text(
    text: str, file_name: str, environ: Mapping[str, str], *, only: str | None = None
) -> SojournSettings:
    """Read a configuration's text, with the environment's overrides over it.

    Args:
        file_name: for problems; relative ``${file:...}`` references are relative to its directory.
        only: the one table to read; problems of the others do not count, and they keep their defaults.
    Raises: ConfigError with every problem that there is.
    """
    data, origins = _parse(text, file_name)
    problems = apply_environment(data, origins, environ)
    if only is not None:
        data = {
            name: value for name, value in data.items() if name in {only, "secrets_may_be_world_readable"}
        }
        problems = [problem for problem in problems if problem.table.partition(".")[0] == only]
    lenient = data.get("secrets_may_be_world_readable")
    references = References(
        environ,
        directory=Path(file_name).parent,
        world_readable=lenient is True or (isinstance(lenient, str) and lenient.lower() == "true"),
    )
    conversion = Conversion(origins, references)
    settings = conversion.convert(SojournSettings, data)
    problems += conversion.problems
    if settings is None or problems:
        # In the order of the file, so that an operator goes through it once; what is not in it comes last.
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or math.inf))
    return settings


def _parse(text: str, file_name: str) -> tuple[dict[str, Any], Origins]:
    # Editors on Windows begin files with a byte order mark, which TOML does not know.
    text = text.removeprefix("\ufeff")
    try:
        data = tomllib.loads(text)
        return data, Origins(file_name, find_positions(text))
    except RecursionError as error:
        found, line = "lists or tables inside one another without end", 0
        raise ConfigError([Problem(file_name, line, "", "(syntax)", found, "valid TOML")]) from error
    except ValueError as error:
        place = _LINE.search(str(error))
        line = int(place[1]) if place and place[1] else max(len(text.splitlines()), 1)
        found = str(error)[: place.start()] if place else str(error)
        raise ConfigError([Problem(file_name, line, "", "(syntax)", found, "valid TOML")]) from None
