"""What the documentation says to type is typed here, page by page, each in a directory of its own.

A comment before a block says what is done with it:

* ``<!-- file: NAME -->``: it is the content of this file; ``<!-- append: NAME -->``: it comes behind what is there.
* ``<!-- run -->``: each line that begins with ``$`` is typed into a shell, the lines behind it are what comes back
  (``...`` stands for anything, no lines for whatever comes). ``<!-- run: exit 1 -->``: the last command ends so.
* ``<!-- same as: PATH -->``: it is this file of the repository, to the letter.
* ``<!-- not run: WHY -->``: it is for reading.

A command that ends with ``&`` is a server; the next command is typed when it listens. Ports on 127.0.0.1 and
the directories of a real installation are replaced by free ones, so that pages can run side by side. The age of keys
(``since = DATE``) stays what it was when the pages were written. Other users may enter a page's directory: as root, a
database of our own runs as one of them.
"""

from __future__ import annotations

import datetime
import doctest
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.mark import ParameterSet

ROOT = Path(__file__).resolve().parents[2]
STRICT_LANGUAGES = frozenset({"python", "console", "toml"})
"""Languages whose blocks must say what is done with them."""

DEBIAN_PROGRAMS = ("curl", "openssl")
"""Programs that pages use, of the Debian packages with their names."""

WITHIN_S = 120.0
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<verb>file|append|run|same as|not run)(?:: (?P<object>.+?))? -->\n+)?"
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^ *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_ADDRESS = re.compile(r"127\.0\.0\.1:(\d{2,5})\b")
_PLACES = re.compile(r"/etc/sojourn|/var/log/sojourn|/var/lib/sojourn|/run/sojourn")
_SINCE = re.compile(r"(?<=since = )\d{4}-\d\d-\d\d")
_WRITTEN = datetime.date(2026, 11, 21)
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """One fenced block: its line in the page, its language, what is done with it, and its text."""

    line: int
    language: str
    verb: str
    object: str
    text: str


class Command(NamedTuple):
    """One line that is typed, and what should come back; None = whatever comes."""

    text: str
    wanted: str | None
    exit_code: int


def all_pages() -> list[Path]:
    """Return README and every page that is written by hand."""
    places = ("README.md", "docs/*/*.md", "src/**/README.md")
    return sorted(page for place in places for page in ROOT.glob(place))


def blocks_of(text: str) -> list[Block]:
    """Return a page's fenced blocks in order."""
    return [
        Block(
            text.count("\n", 0, match.start("fence")) + 1,
            match["language"],
            match["verb"] or "",
            match["object"] or "",
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
        )
        for match in _BLOCK.finditer(text)
    ]


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block; a backslash at the end of a line goes on in the next."""
    typed = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    for index, part in enumerate(typed, 1):
        command, _, wanted = part.partition("\n")
        while command.endswith("\\"):
            more, _, wanted = wanted.partition("\n")
            command = f"{command}\n{more}"
        exit_code = int(block.object.removeprefix("exit ")) if block.object and index == len(typed) else 0
        yield Command(command, wanted or None, exit_code)


class Reader:
    """Somebody who follows a page in a directory of their own: writes its files, types its commands."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._ports: dict[str, str] = {}
        (home / "run").mkdir(mode=0o700)
        environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "COLUMNS": "160",
            "TERM": "dumb",
            "SOJOURN__ADMIN__ADDRESS": self._elsewhere("127.0.0.1:9300"),
        }
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=home,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._alarm = threading.Timer(WITHIN_S, self._kill)
        self._alarm.start()

    def close(self) -> None:
        """End the shell and all that was started in it."""
        self._alarm.cancel()
        self._kill()
        self._shell.communicate()

    def _kill(self) -> None:
        os.killpg(self._shell.pid, signal.SIGKILL)

    def write(self, block: Block) -> None:
        """Do with a file what the page says."""
        path = Path(self._elsewhere(block.object))
        file = path if path.is_absolute() else self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if block.verb == "append" else "w", encoding="utf-8") as out:
            out.write(self._elsewhere(block.text))

    def type(self, command: Command) -> None:
        """Type a command, wait for its end, and compare."""
        text = self._elsewhere(command.text)
        if text.endswith("&"):
            self._start(text.removesuffix("&"))
            return
        exit_code, got = self._ask(text)
        assert exit_code == command.exit_code, f"$ {text}\n{got}\nended with {exit_code}"
        if command.wanted is not None:
            got = self.back(got)
            is_same = doctest.OutputChecker().check_output(command.wanted, got, _SAME)
            assert is_same, f"$ {command.text}\nwanted:\n{command.wanted}\ngot:\n{got}"

    def _ask(self, text: str) -> tuple[int, str]:
        stdin, stdout = self._shell.stdin, self._shell.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{text}\nexit_code=$?; echo; echo __end__ $exit_code\n")
        stdin.flush()
        lines: list[str] = []
        for line in stdout:
            if line.startswith("__end__ "):
                return int(line.split()[1]), "".join(lines).removesuffix("\n")
            lines.append(line)
        pytest.fail(f"$ {text}\nthe shell ended, or nothing came for {WITHIN_S} s:\n{''.join(lines)}")

    def _start(self, text: str) -> None:
        before = self._starts()
        self._ask(f"{text} >> server.log 2>&1 &")
        deadline = time.monotonic() + WITHIN_S / 2
        while self._starts() == before:
            if time.monotonic() > deadline:
                pytest.fail(f"$ {text}&\n{(self.home / 'server.log').read_text()}")
            self._ask("sleep 0.05")

    def _starts(self) -> int:
        """Count how often a server has said that it is there, in whatever log."""
        return sum(log.read_text().count("server.started") for log in self.home.glob("*.log"))

    def _elsewhere(self, text: str) -> str:
        text = _PLACES.sub(lambda place: f"{self.home}{place[0]}", text)
        text = _SINCE.sub(lambda since: of_the_same_age(since[0]), text)
        return _ADDRESS.sub(lambda match: f"127.0.0.1:{self._port(match[1])}", text)

    def back(self, text: str) -> str:
        """Put back into what came the names that the page uses."""
        for written, real in self._ports.items():
            text = text.replace(f"127.0.0.1:{real}", f"127.0.0.1:{written}")
        return re.sub(f"{re.escape(str(self.home))}(?={_PLACES.pattern})", "", text)

    def _port(self, written: str) -> str:
        if written not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[written] = str(probe.getsockname()[1])
        return self._ports[written]


def of_the_same_age(written: str) -> str:
    """Return the date that is as long ago today as one was when the pages were written."""
    return str(datetime.date.fromisoformat(written) + (datetime.datetime.now(datetime.UTC).date() - _WRITTEN))


@pytest.fixture
def reader() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory(prefix="sojourn-page-") as home:
        Path(home).chmod(0o711)
        somebody = Reader(Path(home))
        yield somebody
        somebody.close()


def is_done(page: Path) -> bool:
    """Say whether there is anything to do on a page."""
    return any(
        block.verb in {"file", "append", "run"} for block in blocks_of(page.read_text(encoding="utf-8"))
    )


def name_of(page: Path) -> str:
    """Name a page in a test's id."""
    return page.relative_to(ROOT).as_posix()


def pages_to_follow() -> list[ParameterSet]:
    """Return the pages on which there is something to do, each with the Debian packages that it needs."""
    return [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.debian(*programs)] if programs else [])
        for page in all_pages()
        if is_done(page)
        for programs in [programs_of(page)]
    ]


def programs_of(page: Path) -> list[str]:
    """Return the programs of Debian's that a page uses."""
    text = page.read_text(encoding="utf-8")
    return [program for program in DEBIAN_PROGRAMS if f"$ {program} " in text]


@pytest.mark.parametrize("page", pages_to_follow())
def test_a_page_can_be_followed_word_for_word(page: Path, reader: Reader) -> None:
    """Everything pasted from the documentation works."""
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.verb in {"file", "append"}:
            reader.write(block)
        elif block.verb == "run":
            for command in commands_of(block):
                reader.type(command)


@pytest.mark.parametrize("page", all_pages(), ids=name_of)
def test_every_block_of_code_is_tried_or_says_why_not(page: Path) -> None:
    """A block that nobody runs is wrong some day."""
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.verb == "same as":
            assert block.text == (ROOT / block.object).read_text(encoding="utf-8"), f"{page}:{block.line}"
        elif block.language in STRICT_LANGUAGES:
            assert block.verb, f"{page}:{block.line}: says not what is done with it"
            assert block.verb != "not run" or block.object, f"{page}:{block.line}: says not why it is not run"
