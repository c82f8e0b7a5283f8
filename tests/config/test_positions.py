"""Lines of tables and keys."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.config.listing import toml_value
from sojourn.config.positions import Keys, find_positions

EVERYTHING = r"""# first
top = 1
"quoted key" = "a # no comment"
'literal.key' . inner = 2

[table]   # comment with [brackets] and = signs
text = \"\"\"
[not.a.table]
x = 1 \"\"\"\"\"
path = '''
[[not.an.array]]'''
dates = 1979-05-27 07:32:00 # a space inside a value
list = [ 1, # one
  "two]",
  [3, 4], { a.b = 5, c = "}" },
]

[[array]]
name = "first"
[array.sub]
x = 1
[[array.items]]
y = 1
[[array.items]]
y = 2

[[array]]
name = "second"
[[array.items]]
y = 3

[deep.er.still]
z = 1
[deep]
w = 1
""".replace('\\"', '"')


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("top",), 2),
        (("quoted key",), 3),
        (("literal.key", "inner"), 4),
        (("table",), 6),
        (("table", "text"), 7),
        (("table", "path"), 10),
        (("table", "dates"), 12),
        (("table", "list", 0), 13),
        (("table", "list", 1), 14),
        (("table", "list", 2, 1), 15),
        (("table", "list", 3, "a", "b"), 15),
        (("table", "list", 3, "c"), 15),
        (("array",), 18),
        (("array", 0, "name"), 19),
        (("array", 0, "sub", "x"), 21),
        (("array", 0, "items", 0, "y"), 23),
        (("array", 0, "items", 1, "y"), 25),
        (("array", 1), 27),
        (("array", 1, "items", 0, "y"), 30),
        (("deep", "er", "still", "z"), 33),
        (("deep",), 34),
        (("deep", "w"), 35),
    ],
)
def test_every_kind_of_key_has_its_line(keys: Keys, line: int) -> None:
    """Dotted keys, inline tables, arrays of tables and multi-line strings are all found."""
    tomllib.loads(EVERYTHING)
    assert find_positions(EVERYTHING)[keys] == line


def test_lines_are_the_same_with_windows_line_ends() -> None:
    """A file that was saved on Windows has the lines that its editor shows."""
    assert find_positions(EVERYTHING.replace("\n", "\r\n")) == find_positions(EVERYTHING)


def every_key(value: Any, keys: Keys = ()) -> set[Keys]:
    """Return the keys of all values of a document."""
    inside: dict[Any, Any] = (
        value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    )
    found = {keys} if keys else set()
    for key, item in inside.items():
        found |= every_key(item, (*keys, key))
    return found


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    texts | st.integers(-10, 10) | st.booleans() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(texts, values, max_size=5))
def test_the_keys_with_lines_are_exactly_the_keys_that_tomllib_sees(document: dict[str, Any]) -> None:
    """The position pass and tomllib agree about any document, written one key per line."""
    text = "".join(f"{toml_value({key: value})[2:-2]}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    positions = find_positions(text)
    assert set(positions) == every_key(document)
    assert [positions[(key,)] for key in document] == list(range(1, len(document) + 1))
