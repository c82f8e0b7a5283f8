"""The build's two steps of its own: compile parts of the postgres gateway, make the exchange gateway's gRPC stubs.

Sojourn installs without either: uncompiled it is only slower, and the exchange gateway says what it misses when it is
configured. So whatever fails here costs one line of output and no more. An editable install gets what is made beside
its sources, a wheel gets it inside; with compiled files it is then of this platform.

What it does not know on purpose: what they do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "sojourn.gateways.postgres"
MODULES = ("_scan", "_direct")
PROTO = "sojourn/gateways/exchange/sim/v1/simulator.proto"


class CompiledHook(BuildHookInterface[Any]):
    """Life: hatchling makes one per target, calls :meth:`initialize` before it builds and :meth:`finalize` after."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files, and say where they belong; ``version`` is ``editable`` or ``standard``."""
        if self.target_name != "wheel":
            return
        self._folder = Path(tempfile.mkdtemp(prefix="sojourn-build-"))
        is_editable = version == "editable"
        place = Path(*PACKAGE.split("."))
        compiled = self._made(
            lambda: [
                (
                    place,
                    compile_extension(
                        f"{PACKAGE}.{name}", Path(self.root, "src", place, f"{name}.pyx"), self._folder
                    ),
                )
                for name in MODULES
            ],
            without="the compiled scanner and writer",
        )
        stubs = self._made(
            lambda: [
                (Path(PROTO).parent, stub)
                for stub in make_stubs(Path(self.root, "src"), self._folder / "stubs")
            ],
            without="the exchange gateway's gRPC stubs, which need grpcio-tools",
        )
        for folder, made in compiled + stubs:
            if is_editable:
                # Renamed into place: a running server may have the old file mapped.
                target = Path(self.root, "src", folder, made.name)
                fresh = target.with_name(f".{made.name}.new")
                shutil.copyfile(made, fresh)
                fresh.replace(target)
            else:
                build_data["force_include"][str(made)] = str(folder / made.name)
        if compiled and not is_editable:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def _made(self, make: Callable[[], list[tuple[Path, Path]]], *, without: str) -> list[tuple[Path, Path]]:
        """Return what was made and where it belongs; nothing, and a warning, where that failed."""
        try:
            return make()
        # Which errors a missing compiler, Cython, Python header or protoc leads to is for them to know.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            self.app.display_warning(f"sojourn: built without {without} ({type(error).__name__})")
            return []

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatch's
        """Remove what is not needed any more."""
        if self.target_name == "wheel":
            shutil.rmtree(self._folder, ignore_errors=True)


def make_stubs(source: Path, folder: Path) -> list[Path]:
    """Make the messages of the ``.proto`` file as Python, and their types; return both files.

    No service classes: client and server take the methods from the descriptor, and the classes that protoc would make
    refuse to load beside a gRPC that is older than the one they were made by.

    Args:
        source: the folder in which ``PROTO`` is.
        folder: where to make them; made if need be.
    Raises: ImportError without grpcio-tools; CalledProcessError if protoc refuses the file.
    """
    from grpc_tools import protoc  # noqa: PLC0415 - may be missing, and then the build goes on

    folder.mkdir(parents=True, exist_ok=True)
    # A process of its own: protoc keeps every file that it has read for as long as it is loaded.
    subprocess.run(  # noqa: S603 - our own arguments
        [
            sys.executable,
            "-m",
            protoc.__name__,
            f"--proto_path={source}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            PROTO,
        ],
        check=True,
    )
    made = folder / Path(PROTO).parent
    return [made / "simulator_pb2.py", made / "simulator_pb2.pyi"]


def compile_extension(module: str, source: Path, folder: Path) -> Path:
    """Compile a Cython file, everything inside ``folder``; return the compiled module.

    Raises: whatever Cython, setuptools and the compiler raise where one of them is missing or fails.
    """
    from Cython.Build import cythonize  # noqa: PLC0415 - may be missing, and then the build goes on
    from setuptools import Distribution, Extension  # noqa: PLC0415 - as above
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415 - as above

    copy = folder / source.name
    shutil.copyfile(source, copy)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        extensions = cythonize([Extension(module, [str(copy)])], quiet=True)
        command = build_ext(Distribution({"name": "sojourn", "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
        command.ensure_finalized()
        command.run()
    return Path(command.get_ext_fullpath(module))
