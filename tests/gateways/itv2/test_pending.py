"""The ordered rules by which a message answers a command: itv2-protocol.md section 5.4."""

from __future__ import annotations

import pytest

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Done, Rejected
from sojourn.gateways.itv2.pending import ACCEPTED, PendingCommand, is_answer

ARM = PendingCommand.of(m.Arm(command_sequence=7, partition=1, mode=2))
READ = PendingCommand.of(m.SectionRead(command_sequence=7, section=m.Section((1, 5))))
STATUS = PendingCommand.of(m.RequestPartitionStatus(command_sequence=7, partition=1))
RAW = PendingCommand.of_raw(m.Unknown(number=0x0819, body=b"\x07"), 7)
DATA = m.SectionData(section=m.Section((1, 5)), data=b"\x01")
PARTITION = m.PartitionStatus(partition=1, status=b"\x02\x00\x00")


@pytest.mark.parametrize(
    ("command", "message", "verdict"),
    [
        (ARM, m.CommandError(nacked_word=0x0900, code=17), Rejected(17, is_nack=True)),
        (ARM, m.CommandError(nacked_word=0x0901, code=17), None),
        (READ, DATA, Done(DATA)),
        (ARM, DATA, None),
        (STATUS, PARTITION, Done(PARTITION)),
        (ARM, PARTITION, None),
        (ARM, m.CommandResponse(command_sequence=7), Done()),
        (ARM, m.CommandResponse(command_sequence=8), None),
        (ARM, m.CommandResponse(command_sequence=7, code=4), Rejected(4)),
        (STATUS, m.CommandResponse(command_sequence=7), ACCEPTED),
        (READ, m.CommandResponse(command_sequence=7), ACCEPTED),
        (READ, m.CommandResponse(command_sequence=7, code=16), Rejected(16)),
        (RAW, m.CommandResponse(command_sequence=7), Done()),
        (
            RAW,
            m.Unknown(number=0x4819, body=b"\x01"),
            Done(m.Unknown(number=0x4819, body=b"\x01")),
        ),
        (RAW, m.Unknown(number=0x0819, body=b"\x01"), None),
        (ARM, m.ReadyStatus(partition=1, status=1), None),
    ],
)
def test_a_message_answers_a_command_or_it_does_not(command, message, verdict):
    """Rules 1 to 4, in order."""
    assert command.verdict(message) == verdict


def test_what_can_be_nothing_but_an_answer_is_known_as_such():
    """A late one is told, and never taken for a notification."""
    answers = [
        DATA,
        m.CommandResponse(),
        m.CommandError(nacked_word=1, code=1),
        m.Unknown(number=0x4100, body=b""),
    ]
    assert all(is_answer(one) for one in answers)
    assert not is_answer(PARTITION)
