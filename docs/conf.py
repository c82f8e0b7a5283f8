"""Sphinx settings: Markdown pages, diagrams in Mermaid, every warning an error (`make docs`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from reference_pages import write_pages

write_pages()

_PACKAGE = Path(__file__).resolve().parent.parent / "src" / "sojourn" / "__init__.py"
_VERSION = re.search(r'^__version__ = "(.+)"$', _PACKAGE.read_text(encoding="utf-8"), re.MULTILINE)

project = "Sojourn"
author = "the Sojourn authors"
copyright = author  # noqa: A001 - Sphinx names it so
release = _VERSION[1] if _VERSION else ""
version = release

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist", "substitution"]
# GitHub draws a fenced block named mermaid; with this, the pages do too, from the same text.
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Sojourn {release}"
html_show_sphinx = False
html_copy_source = False
