"""What is decided about the commands of a panel: which are carried out, which are refused, and with what code.

One command in, one result out; the session puts it into words. Holds no connection, reads no clock.

Source: itv2-protocol.md sections 5.4, 7 and 10.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.errors import RemoteProtocolError, WireError
from sojourn.gateways.itv2 import encryption
from sojourn.gateways.itv2.doctor import Symptom
from sojourn.gateways.itv2.encryption import FrameCipher, type1_make, type1_open, type2_key
from sojourn.gateways.itv2.messages import (
    Command,
    CommandError,
    CommandResponse,
    EncryptionType,
    Message,
    NackCode,
    OpenSession,
    RequestAccess,
    ResponseCode,
)

if TYPE_CHECKING:
    from sojourn.gateways.itv2.config import PanelSettings

RANDOM_BYTES: Final = {EncryptionType.TYPE_1: 32, EncryptionType.TYPE_2: 16}
"""How much randomness our half of the key exchange takes."""


class HandshakeFailed(RemoteProtocolError):  # noqa: N818 - what happened to it
    """A handshake cannot go on; the symptom says why, for the doctor."""

    def __init__(self, symptom: str, detail: str = "") -> None:
        super().__init__(symptom, "a handshake", "itv2-protocol.md section 7")
        self.symptom = symptom
        self.detail = detail


class Accepted(msgspec.Struct, frozen=True):
    """The command is carried out."""


class Refused(msgspec.Struct, frozen=True):
    """The command is refused; with a symptom the session ends after the answer."""

    code: int
    symptom: str = ""


Result = Accepted | Refused
ACCEPTED: Final = Accepted()


def answer_to(command: Command, result: Result) -> Message:
    """Return the answer that says ``result``: a response names the command's sequence, an error its word."""
    if isinstance(result, Refused):
        return CommandError(nacked_word=command.word, code=result.code)
    return CommandResponse(command_sequence=command.command_sequence, code=ResponseCode.SUCCESS)


def open_session(opening: OpenSession, panel: PanelSettings) -> None:
    """Make sure that there is a key for what the panel is set to.

    Raises: HandshakeFailed if there is none; the panel gets no answer.
    """
    if opening.encryption_type == EncryptionType.TYPE_1 and panel.type1_code is None:
        raise HandshakeFailed(Symptom.SET_TO_TYPE_1)
    if opening.encryption_type == EncryptionType.TYPE_2 and panel.type2_code is None:
        raise HandshakeFailed(Symptom.SET_TO_TYPE_2)


def request_access(
    access: RequestAccess, encryption_type: int, panel: PanelSettings
) -> tuple[Result, FrameCipher | None]:
    """Return the result, and the cipher of what the server sends, made of the panel's initializer.

    Source: itv2-protocol.md section 8.
    """
    wanted = {
        EncryptionType.TYPE_1: encryption.TYPE_1_INITIALIZER_BYTES,
        EncryptionType.TYPE_2: encryption.TYPE_2_INITIALIZER_BYTES,
    }[encryption_type]
    if len(access.initializer) != wanted:
        return Refused(NackCode.INVALID_LENGTH, Symptom.BAD_INITIALIZER), None
    if encryption_type == EncryptionType.TYPE_2:
        assert panel.type2_code is not None  # noqa: S101 - open_session has looked
        return ACCEPTED, FrameCipher(type2_key(panel.type2_code.reveal(), access.initializer))
    try:
        return ACCEPTED, FrameCipher(type1_open(access.initializer, panel.integration_id))
    except WireError:
        return Refused(NackCode.INVALID_SESSION, Symptom.WRONG_ID_FOR_TYPE_1), None


def our_access(random: bytes, encryption_type: int, panel: PanelSettings) -> tuple[bytes, FrameCipher]:
    """Return our initializer, and the cipher of what the panel sends, made of it.

    Args:
        random: ``RANDOM_BYTES`` of the type, that nobody can guess.
        encryption_type: Type 1 or Type 2.
        panel: has the type's code.
    """
    if encryption_type == EncryptionType.TYPE_2:
        assert panel.type2_code is not None  # noqa: S101 - open_session has looked
        return random, FrameCipher(type2_key(panel.type2_code.reveal(), random))
    assert panel.type1_code is not None  # noqa: S101 - the same
    initializer, key = type1_make(random, panel.type1_code.reveal())
    return initializer, FrameCipher(key)


def _out_of_place(_command: Command) -> Result:
    return Refused(NackCode.INVALID_SEQUENCE)


PANEL_COMMANDS: Final[dict[type[Message], Callable[[Command], Result]]] = {RequestAccess: _out_of_place}
"""Commands of an open session that get more than an acknowledgement.

Panels have never been seen to send any but those of the handshake; every other word is only acknowledged, as section
5.4 asks for.
"""


def result_of(message: Message) -> Result | None:
    """Return the result of a panel's command in an open session; None: it is acknowledged and nothing else."""
    handler = PANEL_COMMANDS.get(type(message))
    return None if handler is None else handler(message)  # type: ignore[arg-type]  # the table has commands only
