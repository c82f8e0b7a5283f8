"""Make the virtual environment in which everything of this project is installed.

What it does not know on purpose: what gets installed. That is the Makefile's affair, and so is the choice of
Python.

Usage: ``python tools/make_venv.py [--ready] FOLDER``. With ``--ready`` nothing is made: the answer ``ready``
says that the folder works and was made for this place.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

NO_PIP = """\
sojourn: this Python ({python}) cannot put pip into a virtual environment.
         On Debian and Ubuntu its package lacks that part. Next step:
             apt install python3-venv
         then the same make again, or name another Python: make PYTHON=/path/to/python3"""


def place_of(folder: Path) -> Path:
    """Say which file holds the path that a venv was made for: scripts in it hold that path too."""
    return folder / "stamps" / "place"


def is_ready(folder: Path) -> bool:
    """Say whether the venv has pip and stands where it was made; its Python runs if it runs this."""
    place = place_of(folder)
    if not place.is_file() or not any(folder.glob("lib/python*/site-packages/pip/__main__.py")):
        return False
    return place.read_text(encoding="utf-8") == str(folder.resolve())


def is_foreign(folder: Path) -> bool:
    """Say whether a venv stands here that another place or a vanished Python made useless."""
    place = place_of(folder)
    moved = place.is_file() and place.read_text(encoding="utf-8") != str(folder.resolve())
    python = folder / "bin" / "python"
    return moved or (folder.exists() and not python.exists())


def install_pip(folder: Path) -> bool:
    """Put pip into a venv with ensurepip or, where Debian has split that off, with the system's own pip.

    Returns: whether pip is there now.
    """
    inner = folder / "bin" / "python"
    ways = (
        [str(inner), "-m", "ensurepip", "--upgrade", "--default-pip"],
        [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "-qq",
            "--python",
            str(inner),
            "install",
            "pip",
        ],
    )
    return any(subprocess.run(way, check=False, capture_output=True).returncode == 0 for way in ways)


def make(folder: Path) -> int:
    """Make the venv, or keep the one that works, and note its place.

    Returns: the exit code; 1 after telling the next step.
    """
    if is_foreign(folder):
        shutil.rmtree(folder)
    if not is_ready(folder):
        print(f"sojourn: making {folder} with Python {sys.version.split()[0]}")
        has_pip = any(folder.glob("lib/python*/site-packages/pip/__main__.py"))
        if not has_pip:
            venv.create(folder, clear=True, symlinks=True, with_pip=False)
        if not has_pip and not install_pip(folder):
            shutil.rmtree(folder)
            print(NO_PIP.format(python=sys.executable), file=sys.stderr)
            return 1
    place = place_of(folder)
    place.parent.mkdir(exist_ok=True)
    place.write_text(str(folder.resolve()), encoding="utf-8")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the venv, or with ``--ready`` only say whether that is needed."""
    parser = argparse.ArgumentParser(description="Make the project's virtual environment.")
    parser.add_argument("--ready", action="store_true", help="only print 'ready' if nothing has to be made")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if not options.ready:
        return make(options.folder)
    if is_ready(options.folder):
        print("ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
