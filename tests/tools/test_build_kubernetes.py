"""tools/build_kubernetes.py says what it misses and builds nothing twice; make test-kubernetes shows what it builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools/build_kubernetes.py"


def build(cache, path=os.environ["PATH"]):
    """Run it with a cache of its own."""
    return subprocess.run(
        [sys.executable, TOOL],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": path, "SOJOURN_CACHE": str(cache)},
    )


def test_what_was_built_is_used_again(tmp_path):
    """Nothing is fetched, and standard output is the folder alone."""
    programs = tmp_path / "kubernetes/v1.20.2"
    programs.mkdir(parents=True)
    for name in ("kube-apiserver", "etcd"):
        (programs / name).touch()
    done = build(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{programs}\n", "")


def test_a_machine_without_apt_is_told_so_in_one_line(tmp_path):
    """The line names the first thing that is missing, and how to get it."""
    done = build(tmp_path, path=str(tmp_path))
    wanted = "sojourn: no Kubernetes to test against: apt-get (as root: apt-get install apt)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", wanted)


def test_a_cache_that_cannot_be_made_is_told(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "kubernetes").touch()
    done = build(tmp_path)
    assert done.returncode == 1
    assert "File exists" in done.stderr
    assert done.stderr.count("\n") == 1
