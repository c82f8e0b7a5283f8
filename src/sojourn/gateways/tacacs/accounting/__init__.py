"""Accounting: a record is made of a request, stored by every configured sink, and only then acknowledged."""

from sojourn.gateways.tacacs.accounting.record import Record, RecordMaker
from sojourn.gateways.tacacs.accounting.sinks import Accounting
from sojourn.gateways.tacacs.accounting.writer import SinkSnapshot

__all__ = ["Accounting", "Record", "RecordMaker", "SinkSnapshot"]
