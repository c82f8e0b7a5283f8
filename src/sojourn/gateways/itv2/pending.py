"""What answers a command: the ordered rules by which a packet of the panel belongs to the one that is pending.

Knows nothing of time or of connections; at most one command is pending per session.

Source: itv2-protocol.md section 5.4.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sojourn.gateways.itv2.answers import Done, Rejected
from sojourn.gateways.itv2.messages import (
    ANSWER_BIT,
    Command,
    CommandError,
    CommandResponse,
    Message,
    ResponseCode,
    Section,
    Unknown,
    Word,
)

_READS: Final = frozenset(
    {
        Word.COMMAND_REQUEST,
        Word.SECTION_READ,
        Word.READ_CODES,
        Word.READ_ATTRIBUTES,
        Word.READ_PARTITIONS,
        Word.READ_USER_TYPES,
    }
)
"""Words whose answer is data: a response with code 0 only says that it will come."""


class Accepted(msgspec.Struct, frozen=True):
    """The panel will answer with data; the wait begins anew."""


ACCEPTED: Final = Accepted()

Subject = tuple[object, ...]
"""What a question and its answer are about, as far as both say it: a section, a partition, the first of a range."""

_SUBJECT: Final = ("section", "partition", "collection", "first")


class PendingCommand(msgspec.Struct, frozen=True):
    """A command that waits for its answer: word, command sequence, and for 0800 the word that it asks for."""

    word: int
    command_sequence: int
    requested: int = 0
    subject: Subject = ()

    @classmethod
    def of(cls, command: Command) -> PendingCommand:
        """Return what ``command`` waits for."""
        requested: int = getattr(command, "requested", 0)
        return cls(command.word, command.command_sequence, requested, subject_of(command))

    @classmethod
    def of_raw(cls, command: Unknown, command_sequence: int) -> PendingCommand:
        """Return what a command without a layout waits for; an 0800 names the word behind its sequence."""
        is_request = command.number == Word.COMMAND_REQUEST
        return cls(
            command.number, command_sequence, int.from_bytes(command.body[1:3], "big") if is_request else 0
        )

    def verdict(self, message: Message) -> Done | Rejected | Accepted | None:
        """Return what ``message`` says of this command; None: it is about something else."""
        if isinstance(message, CommandError):
            # A panel may refuse an 0800 by that word or by the one that it asks for.
            is_mine = message.nacked_word == self.word or (message.nacked_word == self.requested != 0)
            return Rejected(message.code, is_nack=True) if is_mine else None
        word = word_of(message)
        if word == self.word | ANSWER_BIT or (word == self.requested and self.requested):
            return Done(message)
        if isinstance(message, CommandResponse) and message.command_sequence == self.command_sequence:
            if message.code != ResponseCode.SUCCESS:
                return Rejected(message.code)
            return ACCEPTED if self.word in _READS else Done()
        return None


def subject_of(message: Message) -> Subject:
    """Return what a question or an answer with data is about; nothing where it does not say."""
    values = (getattr(message, name, None) for name in _SUBJECT)
    return tuple(one.address if isinstance(one, Section) else one for one in values)


def word_of(message: Message) -> int:
    """Return the word under which a message came."""
    return message.number if isinstance(message, Unknown) else message.word


def is_answer(message: Message) -> bool:
    """Say whether a message can be nothing but the answer to a command."""
    return isinstance(message, (CommandError, CommandResponse)) or bool(word_of(message) & ANSWER_BIT)
