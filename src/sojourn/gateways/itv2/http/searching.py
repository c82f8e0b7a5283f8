"""The history as it is asked for over HTTP: from the values of a query to a page, or to why there is none.

Who may see which panel is the asker's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sojourn.errors import BackendUnavailable, LimitExceeded, RemoteProtocolError
from sojourn.gateways.itv2.history import HistoryQuery
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.problems import FieldError, Kind, Refusal

if TYPE_CHECKING:
    from sojourn.gateways.itv2.history import History


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a list with commas."""
    return tuple(word for word in text.split(",") if word)


def query_of(values: Mapping[str, Any], panels: tuple[str, ...]) -> HistoryQuery:
    """Return what is searched, of these panels; none = of all."""
    return HistoryQuery(
        since_ms=values["since_ms"] or None,
        until_ms=values["until_ms"] or None,
        panels=panels,
        partition=values["partition"] or None,
        partition_label=values["partition_label"],
        zone=values["zone"] or None,
        zone_label=values["zone_label"],
        user=values["user"] or None,
        user_label=values["user_label"],
        asker=values["asker"],
        kinds=listed(values["kinds"]),
        sources=listed(values["sources"]),
        is_oldest_first=values["order"] == "oldest",
        limit_count=values.get("limit", 100),
        cursor=values.get("cursor", ""),
    )


async def page_of(history: History | None, query: HistoryQuery) -> t.HistoryPage:
    """Return one page.

    Raises: Refusal for a cursor that is none, and where nothing can be searched now.
    """
    if history is None:
        raise Refusal(Kind.HISTORY_UNAVAILABLE)
    try:
        page = await history.search(query)
    except RemoteProtocolError:
        wanted = FieldError("query.cursor", "wanted once: the cursor of the page before")
        raise Refusal(Kind.INVALID, errors=(wanted,)) from None
    except (BackendUnavailable, LimitExceeded):
        raise Refusal(Kind.HISTORY_UNAVAILABLE) from None
    return t.HistoryPage(page.entries, page.cursor)
