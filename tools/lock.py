"""Write constraints.txt: one version for every package that any extra or group of this project can want.

What it does not know on purpose: where packages come from. Index addresses are the machine's own affair and
never reach the file; neither do local paths.

Usage: ``python tools/lock.py [--upgrade] [PYTHON ...]``, the oldest Python first. Each of them resolves the
whole project in a venv of its own that is thrown away; versions on which they differ get a marker. Without
``--upgrade`` the versions that are locked already stay.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
HEADER = """\
# Every package that an extra or a group of this project can want, at the version that was tested.
# Made by `python tools/lock.py`; change pyproject.toml and run it again instead of editing this file.
"""


def normalise(name: str) -> str:
    """Spell a package's name as the index does.

    Source: PEP 503, "Normalized Names".
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def constraint_lines(resolved: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Merge what each Python resolved into sorted constraint lines.

    Args:
        resolved: Python version (``"3.11"``) -> package -> version, the oldest Python first.
    Returns: ``name==version``, with a marker only where the Pythons differ; the newest stands for newer ones.
    """
    lines = []
    for name in sorted({name for packages in resolved.values() for name in packages}):
        versions = {python: packages[name] for python, packages in resolved.items() if name in packages}
        if len(set(versions.values())) == 1:
            lines.append(f"{name}=={next(iter(versions.values()))}")
        else:
            newest = list(versions)[-1]
            for python, version in versions.items():
                operator = ">=" if python == newest else "=="
                lines.append(f'{name}=={version} ; python_version {operator} "{python}"')
    return lines


def resolve(python: str, folder: Path, *, upgrade: bool) -> tuple[str, dict[str, str]]:
    """Resolve the project with all extras and groups on one interpreter, installing nothing of it.

    Returns: the interpreter's ``major.minor`` and package -> version, pip and the build backend included.
    """
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inner = str(folder / "bin" / "python")
    pip = [inner, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [word for group in project["dependency-groups"] for word in ("--group", group)]
    kept = ["--constraint", str(LOCK)] if LOCK.exists() and not upgrade else []
    wanted = ["--editable", ".[all]", "pip", *project["build-system"]["requires"], "editables"]
    report = folder / "report.json"
    subprocess.run(
        [
            *pip,
            "install",
            "--dry-run",
            "--ignore-installed",
            "--report",
            str(report),
            *kept,
            *groups,
            *wanted,
        ],
        check=True,
        cwd=ROOT,
    )
    chosen = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    version = subprocess.run(
        [inner, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    own = normalise(project["project"]["name"])
    return version, {
        normalise(one["name"]): one["version"] for one in chosen if normalise(one["name"]) != own
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Lock for the given interpreters, by default the one that runs this."""
    parser = argparse.ArgumentParser(description="Write constraints.txt.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters to resolve on")
    options = parser.parse_args(arguments)
    resolved: dict[str, dict[str, str]] = {}
    for python in options.pythons:
        with tempfile.TemporaryDirectory(prefix="sojourn-lock-") as folder:
            version, packages = resolve(python, Path(folder) / "venv", upgrade=options.upgrade)
        resolved[version] = {**resolved.get(version, {}), **packages}
    lines = constraint_lines(resolved)
    LOCK.write_text(HEADER + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} lines, for Python {', '.join(sorted(resolved))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
