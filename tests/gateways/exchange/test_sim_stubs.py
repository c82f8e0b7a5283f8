"""The gRPC stubs: made by the build, as fresh as their source, and missed with a clear word."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STUBS = ROOT / "src" / "sojourn" / "gateways" / "exchange" / "sim" / "v1"

WITHOUT = """
import sys
sys.modules[{module!r}] = None
from sojourn.errors import ConfigError
try:
    from sojourn.gateways.exchange.sim import link
except ConfigError as error:
    print(error)
"""


def build_hook() -> Any:
    """Load the build's hook, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stubs_are_as_fresh_as_their_source(tmp_path: Path) -> None:
    """What the build left beside the sources is what protoc makes of the .proto file now; else install again."""
    made = build_hook().make_stubs(ROOT / "src", tmp_path)
    assert {path.name for path in made} == {"simulator_pb2.py", "simulator_pb2.pyi"}
    for fresh in made:
        assert fresh.read_text() == (STUBS / fresh.name).read_text(), fresh.name


def test_the_stubs_are_in_no_repository() -> None:
    """They are made: git ignores them, and so does everything that asks git."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "src/sojourn/gateways/exchange/sim/v1/*_pb2.py*" in ignored


class Build:
    """What hatchling's hook talks to."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


def run_hook(version: str, tmp_path: Path) -> tuple[Build, dict[str, object]]:
    """Run the build's hook on a copy of the sources that it reads, without a compiler."""
    hooks = build_hook()
    source = tmp_path / "src" / hooks.PROTO
    source.parent.mkdir(parents=True)
    source.write_text((ROOT / "src" / hooks.PROTO).read_text())
    app = Build()
    hook = hooks.CompiledHook(str(tmp_path), {}, None, None, str(tmp_path), "wheel", app)
    data: dict[str, object] = {"force_include": {}}
    hook.initialize(version, data)
    return app, data


def test_a_wheel_gets_the_stubs_inside(tmp_path: Path) -> None:
    """hatch_build.py: an editable install gets them beside the sources, a wheel inside."""
    _, data = run_hook("standard", tmp_path)
    inside = set(data["force_include"].values())
    assert inside >= {f"sojourn/gateways/exchange/sim/v1/simulator_pb2.py{end}" for end in ("", "i")}
    assert not list(tmp_path.rglob("*_pb2.py"))


def test_an_editable_install_gets_the_stubs_beside_the_sources(tmp_path: Path) -> None:
    """hatch_build.py, as above."""
    _, data = run_hook("editable", tmp_path)
    assert not data["force_include"]
    assert sorted(path.name for path in tmp_path.rglob("*_pb2.py*")) == [
        "simulator_pb2.py",
        "simulator_pb2.pyi",
    ]


def test_without_grpcio_tools_the_build_goes_on_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hatch_build.py: whatever fails there costs one line of output and no more."""
    monkeypatch.setitem(sys.modules, "grpc_tools", None)
    app, data = run_hook("standard", tmp_path)
    assert not data["force_include"]
    assert any("grpcio-tools" in warning and "ModuleNotFoundError" in warning for warning in app.warnings)


@pytest.mark.parametrize("module", ["sojourn.gateways.exchange.sim.v1.simulator_pb2", "grpc"])
def test_what_is_missing_is_said_when_it_is_used(module: str) -> None:
    """No traceback: a ConfigError that names what is missing and what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(module=module)], capture_output=True, text=True, check=True
    )
    assert module in done.stdout
    assert "pip install grpcio-tools" in done.stdout
