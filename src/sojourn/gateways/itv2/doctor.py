"""The connection doctor: one sentence for people about each way in which a connection fails, and what to compare.

A symptom is what the session saw; a case is what is known of the panel. Knows nothing of connections and shows no code.

Source: itv2-protocol.md sections 1.1, 7.5 and 8.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sojourn.core.events import EventKind
from sojourn.gateways.itv2.messages import EncryptionType
from sojourn.gateways.itv2.sections import Sections, sections_of

HANDSHAKE_FAILED: Final = EventKind("itv2.handshake_failed", ("panel", "peer", "sentence"), level="warning")
"""A connection came to nothing; the sentence says what to compare."""


class Step:
    """Steps of the handshake that the panel has to take, by their numbers in itv2-protocol.md section 7."""

    OPEN_SESSION = 1
    ACKNOWLEDGE = 3
    ACCEPT_SESSION = 5
    REQUEST_ACCESS = 7
    ACKNOWLEDGE_ENCRYPTED = 9
    ACCEPT_ACCESS = 11


class Symptom:
    """What was seen when a connection failed."""

    NEVER_CAME = "never_came"
    SAID_NOTHING = "said_nothing"
    HTTP = "http"
    POWERSERIES_PRO = "powerseries_pro"
    NOT_A_PANEL = "not_a_panel"
    GARBAGE = "garbage"
    TOO_LONG = "too_long"
    OTHER_ID = "other_id"
    OUT_OF_ORDER = "out_of_order"
    UNKNOWN_ID = "unknown_id"
    SET_TO_TYPE_1 = "set_to_type_1"
    SET_TO_TYPE_2 = "set_to_type_2"
    NO_ENCRYPTION = "no_encryption"
    UNKNOWN_ENCRYPTION = "unknown_encryption"
    REFUSES_LENGTH = "refuses_length"
    REFUSES = "refuses"
    SILENT_AFTER_OPEN_SESSION = "silent_after_open_session"
    SILENT_BEFORE_ACCEPTING = "silent_before_accepting"
    SILENT_BEFORE_ACCESS = "silent_before_access"
    BAD_INITIALIZER = "bad_initializer"
    WRONG_ID_FOR_TYPE_1 = "wrong_id_for_type_1"
    IGNORES_TYPE_1 = "ignores_type_1"
    WRONG_TYPE_1_CODE = "wrong_type_1_code"
    WRONG_TYPE_2_CODE = "wrong_type_2_code"
    UNREADABLE_FIRMWARE = "unreadable_firmware"
    TOO_SLOW = "too_slow"
    TOO_MANY_FAILURES = "too_many_failures"
    TWO_AT_ONCE = "two_at_once"


class Case(msgspec.Struct, frozen=True):
    """What is known of whoever failed to connect; ``detail`` is an addition of the symptom's own, never a secret."""

    panel: str = ""
    integration_id: str = ""
    peer: str = ""
    sections: Sections = sections_of()
    encryption_type: int = 0
    firmware: int = 0
    detail: str = ""


SENTENCES: Final[dict[str, str]] = {
    Symptom.NEVER_CAME: (
        "{who} has not connected yet: compare {s.options} (--345---), {s.polling} (--3-----), {s.server_address} with "
        "this server's address and {s.server_port} with its port, then restart the communicator ("
        "{restart})."
    ),
    Symptom.SAID_NOTHING: (
        "{peer} connected and said nothing: a port scan or a firewall's probe, or a panel whose integration protocol "
        "is off (bit 5 of {s.options}) or whose notification is not real time (bit 3 of {s.polling})."
    ),
    Symptom.HTTP: (
        "{peer} sent {detail}: a web browser or a scanner and not a panel; panels use this port, people the port of "
        "[itv2.http]."
    ),
    Symptom.POWERSERIES_PRO: (
        "{peer} sent {detail} as PowerSeries Pro panels (HS3032 and later) do: they speak another protocol than ITv2, "
        "which no section changes, and cannot be served."
    ),
    Symptom.NOT_A_PANEL: (
        "{peer} does not begin with the 12 digits of an Integration ID ({s.integration_id}): it is not a Neo "
        "communicator, or a device between changes the bytes."
    ),
    Symptom.GARBAGE: (
        "{who} sends packets that cannot be read ({detail}): make sure that nothing between the panel and this server "
        "changes the bytes, and that {s.server_port} is the port of this server and of nothing else."
    ),
    Symptom.TOO_LONG: (
        "{who} sent {detail}: it is not a Neo communicator; make sure that {s.server_port} is the port of this server."
    ),
    Symptom.OTHER_ID: (
        "{who} changed its Integration ID ({s.integration_id}) within one connection: two panels share a device "
        "between, which must not mix their connections."
    ),
    Symptom.OUT_OF_ORDER: (
        "{who} went on with a session that this server does not know ({detail}): it starts over by itself; if it does "
        "not, restart the communicator ({restart})."
    ),
    Symptom.UNKNOWN_ID: (
        "{who} has an unknown Integration ID ({type}, firmware {firmware}, from {peer}) and got no answer: if it is "
        "yours, compare {s.integration_id} and add it to [[itv2.panels]]."
    ),
    Symptom.SET_TO_TYPE_1: (
        "{who} is set to Type 1 encryption and only a Type 2 code is configured: turn bit 4 of {s.options} on "
        "(better), or configure type1_code as in {s.type1_code}."
    ),
    Symptom.SET_TO_TYPE_2: (
        "{who} is set to Type 2 encryption (bit 4 of {s.options}) and no Type 2 code is configured: configure "
        "type2_code as in {s.type2_code}."
    ),
    Symptom.NO_ENCRYPTION: (
        "{who} offers no encryption (type 0), which is never accepted: turn bit 4 of {s.options} on and compare "
        "{s.type2_code} with type2_code."
    ),
    Symptom.UNKNOWN_ENCRYPTION: (
        "{who} offers encryption type {type_number} with firmware {firmware}, as 5.63 does: nobody has published it "
        "and it is not supported; use a communicator with firmware up to 5.43, where bit 4 of {s.options} gives Type 2."
    ),
    Symptom.REFUSES_LENGTH: (
        "{who} refuses our OpenSession as too long or too short (firmware {firmware}) and starts over: 5.63 does this "
        "and is not supported; whatever {s.options} says, use a communicator with firmware up to 5.43."
    ),
    Symptom.REFUSES: (
        "{who} refuses the session ({detail}): restart the communicator ({restart}); if it goes on, compare "
        "{s.options} (--345---)."
    ),
    Symptom.SILENT_AFTER_OPEN_SESSION: (
        "{who} asks for a session and does not take our answer: its packets reach us and ours do not reach it; look at "
        "the firewall between, and at {s.server_address}, which must be the address that answers."
    ),
    Symptom.SILENT_BEFORE_ACCEPTING: (
        "{who} does not answer our OpenSession (firmware {firmware}): restart the communicator ({restart}) and compare "
        "{s.options} (--345---)."
    ),
    Symptom.SILENT_BEFORE_ACCESS: (
        "{who} opened a session and never asks for access: restart the communicator ({restart}) and compare "
        "{s.options} (--345---)."
    ),
    Symptom.BAD_INITIALIZER: (
        "{who} sent an initializer of another length than {type} has (firmware {firmware}): switch bit 4 of "
        "{s.options} off and on again and restart the communicator ({restart})."
    ),
    Symptom.WRONG_ID_FOR_TYPE_1: (
        "{who} wrapped its Type 1 key with another Integration ID than the one that it tells ({id}): compare "
        "{s.integration_id}, or turn bit 4 of {s.options} on and use Type 2."
    ),
    Symptom.IGNORES_TYPE_1: (
        "{who} does not take our first packet in Type 1 encryption: compare {s.integration_id} with {id}, or turn bit "
        "4 of {s.options} on and use Type 2."
    ),
    Symptom.WRONG_TYPE_1_CODE: (
        "{who} has another Type 1 code: compare {s.type1_code} with type1_code, all 8 digits."
    ),
    Symptom.WRONG_TYPE_2_CODE: (
        "{who} has another Type 2 code: compare {s.type2_code} with type2_code, all 32 digits."
    ),
    Symptom.UNREADABLE_FIRMWARE: (
        "{who} has firmware {firmware} and does not take encrypted packets, which is known of 5.63 and not supported; "
        "if {s.type2_code} is the same as type2_code, use a communicator with firmware up to 5.43."
    ),
    Symptom.TOO_SLOW: (
        "{who} did not get through the handshake in time ({detail}): the line to it is too slow, or the panel starts "
        "over again and again; compare {s.options} (--345---) and restart the communicator ({restart})."
    ),
    Symptom.TOO_MANY_FAILURES: (
        "{peer} failed {detail} times and is not let in for a while: see the sentences before this one, and compare "
        "{s.options} and {s.type2_code} of the panels behind it."
    ),
    Symptom.TWO_AT_ONCE: (
        "{who} is connected and calls again with the same Integration ID ({detail}): let only one of its integration "
        "groups have this server's address (compare {s.server_address}), and make sure that no other communicator has "
        "its ID; until then the connection that is there stays."
    ),
}
"""By symptom; ``s`` are the sections of the panel's integration group, or of the first where it is not known."""

_SILENCE: Final = {
    Step.OPEN_SESSION: Symptom.SAID_NOTHING,
    Step.ACKNOWLEDGE: Symptom.SILENT_AFTER_OPEN_SESSION,
    Step.ACCEPT_SESSION: Symptom.SILENT_BEFORE_ACCEPTING,
    Step.REQUEST_ACCESS: Symptom.SILENT_BEFORE_ACCESS,
}
_SUPPORTED_FIRMWARE: Final = 0x0560
"""Firmware from here on is known for a tail in OpenSession and for ignoring encrypted packets (section 7.5)."""


def sentence_of(symptom: str, case: Case) -> str:
    """Return the sentence for people."""
    return SENTENCES[symptom].format(
        who=_who(case),
        peer=case.peer,
        id=case.integration_id,
        s=case.sections,
        type=type_words(case.encryption_type),
        type_number=case.encryption_type,
        firmware=firmware_words(case.firmware),
        detail=case.detail,
        restart="[851][999] 55",
    )


def silence_at(step: int, encryption_type: int, firmware: int) -> str:
    """Return what it means that the panel is silent, or hangs up, where it should take ``step``."""
    early = _SILENCE.get(step)
    if early is not None:
        return early
    if encryption_type == EncryptionType.TYPE_2:
        # The panel ignores what it cannot decrypt: our first encrypted packet is made with its Type 2 code.
        return Symptom.UNREADABLE_FIRMWARE if firmware >= _SUPPORTED_FIRMWARE else Symptom.WRONG_TYPE_2_CODE
    if step == Step.ACKNOWLEDGE_ENCRYPTED:
        return Symptom.IGNORES_TYPE_1
    return Symptom.WRONG_TYPE_1_CODE


def unknown_type(encryption_type: int) -> str:
    """Return what it means that a panel offers an encryption that nobody here knows, and nothing else."""
    return Symptom.UNKNOWN_ENCRYPTION if encryption_type else Symptom.NO_ENCRYPTION


def garbage_at(step: int, encryption_type: int) -> str | None:
    """Return what it means that a packet cannot be read where the panel should take ``step``; None: nothing yet."""
    if step != Step.ACCEPT_ACCESS:
        return None
    return (
        Symptom.WRONG_TYPE_2_CODE if encryption_type == EncryptionType.TYPE_2 else Symptom.WRONG_TYPE_1_CODE
    )


def firmware_words(firmware: int) -> str:
    """Return a version as people write it: 0x0543 is 5.43; unknown where it was not told."""
    return f"{firmware >> 8:x}.{firmware & 0xFF:02x}" if firmware else "unknown"


def type_words(encryption_type: int) -> str:
    """Return an encryption type as the installation manual writes it."""
    return f"Type {encryption_type}" if encryption_type else "no encryption"


def _who(case: Case) -> str:
    """Return whom a sentence is about; every sentence begins with it, or with the address."""
    name = case.panel or case.integration_id
    return f"Panel {name}" if name else case.peer
