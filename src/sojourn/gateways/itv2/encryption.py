"""The ciphers of ITv2: what turns codes and initializers into keys, and the keys into ciphers for whole frames.

Each direction has its own key: the panel's initializer gives that of server to panel, ours that of panel to server.
Randomness comes in as an argument. Keys, codes and initializers never appear in an error.

The protocol asks for ECB: identical frames give identical ciphertext. That cannot be helped here.
Source: itv2-protocol.md section 8.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from sojourn.errors import LocalProtocolError, WireError

BLOCK_BYTES = 16
TYPE_1_INITIALIZER_BYTES = 48
TYPE_2_INITIALIZER_BYTES = 16
_WRAP_CHARACTERS = 8
_RANDOM_BYTES = 32


class FrameCipher:
    """AES-128 of one direction of one session, for whole frames.

    A context is made at the first use and kept: 0.15 us a packet instead of 3.4, and a direction never needs both.
    """

    __slots__ = ("_decryptor", "_encryptor", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != BLOCK_BYTES:
            raise LocalProtocolError(
                f"a key of {len(key)} bytes", f"{BLOCK_BYTES}", "itv2-protocol.md section 8"
            )
        self._key = key
        self._encryptor: CipherContext | None = None
        self._decryptor: CipherContext | None = None

    def encrypt(self, frame: bytes) -> bytes:
        """Encrypt a frame, padded with zeros to whole blocks as panels expect; whole blocks stay as they are.

        Source: itv2-protocol.md section 8.3.
        """
        encryptor = self._encryptor
        if encryptor is None:
            encryptor = self._encryptor = _aes(self._key).encryptor()
        return encryptor.update(frame + bytes(-len(frame) % BLOCK_BYTES))

    def decrypt(self, data: bytes) -> bytes:
        """Decrypt to a frame and its padding of whichever style; the frame's length says where it ends.

        Raises: WireError if ``data`` is not made of whole blocks. A wrong key gives other bytes, not an error.
        Source: itv2-protocol.md section 8.3.
        """
        if not data or len(data) % BLOCK_BYTES:
            raise WireError(
                f"{len(data)} encrypted bytes",
                f"a positive multiple of {BLOCK_BYTES}",
                "itv2-protocol.md section 8.3",
            )
        decryptor = self._decryptor
        if decryptor is None:
            decryptor = self._decryptor = _aes(self._key).decryptor()
        return decryptor.update(data)


def type2_key(access_code: str, initializer: bytes) -> bytes:
    """Return the key of the direction that ``initializer`` stands for.

    Args:
        access_code: the Type 2 code, 32 hexadecimal digits.
        initializer: 16 bytes.
    Raises: LocalProtocolError if the code is of another shape; WireError if the initializer is.
    Source: itv2-protocol.md section 8.1.
    """
    code = _hex(access_code, "a Type 2 access code", "32 hexadecimal digits")
    if len(code) != BLOCK_BYTES:
        raise LocalProtocolError("a Type 2 access code of another length", "32 hexadecimal digits", _TYPE_2)
    _check_length(initializer, TYPE_2_INITIALIZER_BYTES, _TYPE_2)
    return _aes(code).encryptor().update(initializer)


def type1_wrap_key(text: str) -> bytes:
    """Return the key that an initializer is wrapped with.

    Args:
        text: the Integration ID for the panel's initializer, the Type 1 access code for the server's; eight
            hexadecimal digits count.
    Raises: LocalProtocolError if there are fewer.
    Source: itv2-protocol.md section 8.2.
    """
    key = _hex(text[:_WRAP_CHARACTERS] * 4, "an Integration ID or Type 1 code", "8 hexadecimal digits")
    if len(key) != BLOCK_BYTES:
        raise LocalProtocolError("a shorter Integration ID or Type 1 code", "8 hexadecimal digits", _TYPE_1)
    return key


def type1_open(initializer: bytes, wrap: str) -> bytes:
    """Return the key in an initializer of 48 bytes.

    Args:
        initializer: as the other side sent it.
        wrap: as of :func:`type1_wrap_key`.
    Raises: WireError if its length is another or its check bytes are wrong, which a wrong ``wrap`` causes too.
    Source: itv2-protocol.md section 8.2.
    """
    _check_length(initializer, TYPE_1_INITIALIZER_BYTES, _TYPE_1)
    random = _aes(type1_wrap_key(wrap)).decryptor().update(initializer[BLOCK_BYTES:])
    if random[::2] != initializer[:BLOCK_BYTES]:
        raise WireError("wrong check bytes in a Type 1 initializer", "those that are wrapped in it", _TYPE_1)
    return random[1::2]


def type1_make(random: bytes, wrap: str) -> tuple[bytes, bytes]:
    """Return the initializer to send and the key in it.

    Args:
        random: 32 bytes that nobody can guess.
        wrap: as of :func:`type1_wrap_key`.
    Source: itv2-protocol.md section 8.2.
    """
    if len(random) != _RANDOM_BYTES:
        raise LocalProtocolError(f"{len(random)} random bytes", f"{_RANDOM_BYTES}", _TYPE_1)
    return random[::2] + _aes(type1_wrap_key(wrap)).encryptor().update(random), random[1::2]


_TYPE_1 = "itv2-protocol.md section 8.2"
_TYPE_2 = "itv2-protocol.md section 8.1"


def _aes(key: bytes) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - what the panels speak


def _hex(text: str, what: str, wanted: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        # The error's own text would quote the code.
        raise LocalProtocolError(
            f"{what} with other characters", wanted, "itv2-protocol.md section 8"
        ) from None


def _check_length(initializer: bytes, wanted_bytes: int, source: str) -> None:
    if len(initializer) != wanted_bytes:
        raise WireError(f"an initializer of {len(initializer)} bytes", f"{wanted_bytes} bytes", source)
