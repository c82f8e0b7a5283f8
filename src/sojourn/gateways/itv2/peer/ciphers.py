"""The panel's half of both encryptions: keys out of initializers, and frames in whole blocks of AES-128.

Knows no packets and no handshake; random bytes are given to it.

Source: itv2-protocol.md section 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from sojourn.errors import WireError

BLOCK_BYTES: Final = 16
TYPE_1_RANDOM_BYTES: Final = 32
TYPE_2_RANDOM_BYTES: Final = 16

RandomBytes = Callable[[int], bytes]


def encrypt_blocks(key: bytes, clear: bytes) -> bytes:
    """Encrypt whole blocks, each by itself."""
    encryptor = _cipher(key).encryptor()
    return encryptor.update(clear) + encryptor.finalize()


def decrypt_blocks(key: bytes, sealed: bytes) -> bytes:
    """Undo :func:`encrypt_blocks`. Raises: WireError unless there are whole blocks, and at least one."""
    if not sealed or len(sealed) % BLOCK_BYTES:
        raise WireError(
            f"{len(sealed)} encrypted bytes", "whole blocks of 16", "itv2-protocol.md section 8.3"
        )
    decryptor = _cipher(key).decryptor()
    return decryptor.update(sealed) + decryptor.finalize()


def _cipher(key: bytes) -> Cipher[ECB]:
    return Cipher(AES(key), ECB())  # noqa: S305 - it is what panels speak


def pad_as_panels(frame: bytes, random_bytes: RandomBytes) -> bytes:
    """Fill the last block with anything, its last byte counts the fill; a full block gets one more.

    Source: itv2-protocol.md section 8.3, measured on 174 packets.
    """
    count = BLOCK_BYTES - len(frame) % BLOCK_BYTES
    return frame + random_bytes(count - 1) + bytes((count,))


def pad_with_zeros(frame: bytes) -> bytes:
    """Pad as servers do. Source: itv2-protocol.md section 8.3."""
    return frame + bytes(-len(frame) % BLOCK_BYTES)


def type_2_key(access_code: str, initializer: bytes) -> bytes:
    """Return the key of the direction towards whoever made the initializer. ``access_code``: 32 hex digits."""
    return encrypt_blocks(bytes.fromhex(access_code), initializer)


def wrap_key(digits: str) -> bytes:
    """Return what a Type 1 initializer is wrapped with: its maker's first eight digits, four times."""
    return bytes.fromhex(digits[:8] * 4)


def type_1_initializer(digits: str, drawn: bytes) -> tuple[bytes, bytes]:
    """Return the 48 bytes to send, and the key that they carry. ``drawn``: 32 random bytes."""
    return drawn[::2] + encrypt_blocks(wrap_key(digits), drawn), drawn[1::2]


def type_1_key(digits: str, initializer: bytes) -> bytes:
    """Return the key in the other end's initializer.

    Raises: WireError if its check bytes are wrong: another code wrapped it.
    """
    drawn = decrypt_blocks(wrap_key(digits), initializer[BLOCK_BYTES:])
    if len(drawn) != TYPE_1_RANDOM_BYTES or drawn[::2] != initializer[:BLOCK_BYTES]:
        raise WireError("an initializer of another code", "its check bytes", "itv2-protocol.md section 8.2")
    return drawn[1::2]
