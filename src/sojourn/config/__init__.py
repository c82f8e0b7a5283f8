"""Read ``sojourn.toml`` and the environment into one immutable :class:`SojournSettings`.

Shape: ``loading`` (file and environment to settings), ``convert`` (values to structs, every problem at once),
``positions`` and ``origins`` (where a value came from), ``references`` (``${file:...}``), ``documents`` (the
example file and the reference page), ``listing`` (what is in force, masked).
"""

from __future__ import annotations

from sojourn.config.documents import example, reference_markdown
from sojourn.config.listing import show
from sojourn.config.loading import load, load_text
from sojourn.config.settings import SojournSettings

__all__ = ["SojournSettings", "example", "load", "load_text", "reference_markdown", "show"]
