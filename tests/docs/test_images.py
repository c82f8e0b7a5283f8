"""The pictures that README and documentation show: there, small, and all of them shown or made for somebody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
LARGEST_BYTES = 200_000
"""Of one picture: they are in every clone."""
_IMAGE = re.compile(r"!\[(?P<words>[^\]]*)\]\((?P<place>[^)\s]+)\)")


def shown() -> list[tuple[Path, str, str]]:
    """Return each picture that a page shows: the page, what it says to those who do not see it, and its place."""
    return [
        (page, found["words"], found["place"])
        for page in PAGES
        for found in _IMAGE.finditer(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(
    ("page", "words", "place"),
    [pytest.param(*one, id=f"{one[0].name}-{Path(one[2]).name}") for one in shown()],
)
def test_a_picture_that_a_page_shows_is_there_and_described(page: Path, words: str, place: str) -> None:
    """``make images`` makes them; one that is missing is a hole in the page."""
    assert (page.parent / place).resolve().is_file()
    assert words.strip(), f"{page.name}: {place} says nothing to those who do not see it"


def test_the_first_thing_that_a_newcomer_sees_is_the_dashboard() -> None:
    """Issue 6, build 6: README has a screenshot, before any detail."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = _IMAGE.search(text)
    assert first is not None
    assert first["place"] == "docs/images/overview.png"
    assert text.count("\n## ", 0, first.start()) == 0


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/images").glob("*.png")), ids=lambda file: file.name)
def test_a_picture_is_small_enough_to_be_in_every_clone(picture: Path) -> None:
    """They are committed anew whenever a page changes its looks."""
    assert picture.stat().st_size <= LARGEST_BYTES
