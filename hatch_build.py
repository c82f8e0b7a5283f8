"""The build's one step of its own: compile the scanner and the writer of the postgres gateway, if this machine can.

Sojourn works without them, only slower; so whatever fails here costs one line of output and no more.
An editable install gets the compiled files beside their sources, a wheel gets them inside and is then of this platform.

What it does not know on purpose: what they do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "sojourn.gateways.postgres"
MODULES = ("_scan", "_direct")


class CompiledHook(BuildHookInterface[Any]):
    """Life: hatchling makes one per target, calls :meth:`initialize` before it builds and :meth:`finalize` after."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say where the result belongs; ``version`` is ``editable`` or ``standard``."""
        if self.target_name != "wheel":
            return
        self._folder = Path(tempfile.mkdtemp(prefix="sojourn-build-"))
        place = Path(*PACKAGE.split("."))
        try:
            made = [
                compile_extension(
                    f"{PACKAGE}.{name}", Path(self.root, "src", place, f"{name}.pyx"), self._folder
                )
                for name in MODULES
            ]
            if version == "editable":
                for compiled in made:
                    # Renamed into place: a running server may have the old file mapped.
                    target = Path(self.root, "src", place, compiled.name)
                    fresh = target.with_name(f".{compiled.name}.new")
                    shutil.copyfile(compiled, fresh)
                    fresh.replace(target)
                return
        # Which errors a missing compiler, Cython or Python header leads to is for them to know.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            self.app.display_warning(
                f"sojourn: built without the compiled scanner and writer ({type(error).__name__})"
            )
            return
        for compiled in made:
            build_data["force_include"][str(compiled)] = str(place / compiled.name)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatch's
        """Remove what is not needed any more."""
        if self.target_name == "wheel":
            shutil.rmtree(self._folder, ignore_errors=True)


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
