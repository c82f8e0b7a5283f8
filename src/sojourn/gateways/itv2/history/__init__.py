"""The history: every event of every panel with its names, in an SQLite file that outlives this process."""

from sojourn.gateways.itv2.history.config import HistorySettings
from sojourn.gateways.itv2.history.history import History
from sojourn.gateways.itv2.history.records import Entry, HistoryQuery, Page
from sojourn.gateways.itv2.history.repeats import packet_digest

__all__ = ["Entry", "History", "HistoryQuery", "HistorySettings", "Page", "packet_digest"]
