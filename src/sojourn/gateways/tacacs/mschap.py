"""The challenge types of TACACS+: CHAP, MS-CHAPv1 and MS-CHAPv2, answered and verified.

Shape: the ``data`` of an authentication START holds an identifier, the challenge and the response. The device
made the challenge itself, so the server only checks that the response fits the user's recoverable secret.
What it does not know on purpose: where secrets are kept, and who may use which type.

These are old algorithms that exist because devices speak them. MD4 is written out here, because OpenSSL 3
leaves it out of its default provider; DES comes from ``cryptography``. The LM response is never computed nor
accepted: it gives the password away to whoever sees it.

Source: RFC 8907 sections 5.4.2.3 to 5.4.2.5, RFC 1320 (MD4), RFC 1994 (CHAP), RFC 2433 (MS-CHAPv1) and
RFC 2759 (MS-CHAPv2).
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from sojourn.errors import LocalProtocolError, WireError

CHAP_RESPONSE_BYTES = 16
MIN_CHAP_CHALLENGE_BYTES = 8
"""What RFC 8907 recommends at least; a shorter challenge repeats too soon."""
MSCHAP_V1_CHALLENGE_BYTES = 8
MSCHAP_V2_CHALLENGE_BYTES = 16
MSCHAP_RESPONSE_BYTES = 49
"""MS-CHAPv1: LM 24, NT 24, flags 1. MS-CHAPv2: peer challenge 16, reserved 8, NT 24, flags 1."""
NT_RESPONSE_IS_USED = 1
"""The flag of an MS-CHAPv1 response that says the NT part, not the LM part, holds the answer."""

_NT_RESPONSE_BYTES = 24
_WORD = 0xFFFFFFFF
_MD4_ROUNDS: tuple[tuple[int, tuple[int, ...], tuple[int, int, int, int]], ...] = (
    (0, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), (3, 7, 11, 19)),
    (0x5A827999, (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), (3, 5, 9, 13)),
    (0x6ED9EBA1, (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15), (3, 9, 11, 15)),
)
"""For each round: the constant added, the order of the words, the rotations. Source: RFC 1320 section 3.4."""


def verify_chap(data: bytes, secret: bytes, min_challenge_bytes: int = MIN_CHAP_CHALLENGE_BYTES) -> bool:
    """Say whether a CHAP response was made with ``secret``, in constant time.

    Raises: WireError if ``data`` is too short for an identifier, a challenge and a response.
    Source: RFC 8907 section 5.4.2.3.
    """
    wanted = 1 + min_challenge_bytes + CHAP_RESPONSE_BYTES
    if len(data) < wanted:
        raise WireError(
            f"CHAP data of {len(data)} bytes", f"at least {wanted} bytes", "RFC 8907 section 5.4.2.3"
        )
    answer = chap_response(data[0], data[1:-CHAP_RESPONSE_BYTES], secret)
    return hmac.compare_digest(answer, data[-CHAP_RESPONSE_BYTES:])


def verify_mschap_v1(data: bytes, secret: bytes) -> bool:
    """Say whether an MS-CHAPv1 response was made with ``secret``, in constant time.

    A response that holds only the LM part is False, whatever the secret.
    Raises: WireError if ``data`` has another length than 58 bytes.
    Source: RFC 8907 section 5.4.2.4.
    """
    _check_mschap_length("MS-CHAPv1", data, MSCHAP_V1_CHALLENGE_BYTES, "5.4.2.4")
    if data[-1] != NT_RESPONSE_IS_USED:
        return False
    answer = challenge_response(data[1:9], nt_hash(secret))
    return hmac.compare_digest(answer, data[-1 - _NT_RESPONSE_BYTES : -1])


def verify_mschap_v2(data: bytes, user: str, secret: bytes) -> bool:
    """Say whether an MS-CHAPv2 response was made by ``user`` with ``secret``, in constant time.

    Raises: WireError if ``data`` has another length than 66 bytes.
    Source: RFC 8907 section 5.4.2.5.
    """
    _check_mschap_length("MS-CHAPv2", data, MSCHAP_V2_CHALLENGE_BYTES, "5.4.2.5")
    answer = nt_response_v2(data[1:17], data[17:33], user, secret)
    return hmac.compare_digest(answer, data[-1 - _NT_RESPONSE_BYTES : -1])


def chap_data(identifier: int, challenge: bytes, secret: bytes) -> bytes:
    """Build what a device puts into ``data`` for CHAP."""
    return bytes((identifier,)) + challenge + chap_response(identifier, challenge, secret)


def mschap_v1_data(identifier: int, challenge: bytes, secret: bytes) -> bytes:
    """Build what a device puts into ``data`` for MS-CHAPv1: the LM part is zeros, the NT part is used.

    Raises: LocalProtocolError if the challenge has another length than 8 bytes.
    """
    _check_own_challenge(challenge, MSCHAP_V1_CHALLENGE_BYTES, "RFC 8907 section 5.4.2.4")
    response = bytes(24) + challenge_response(challenge, nt_hash(secret)) + bytes((NT_RESPONSE_IS_USED,))
    return bytes((identifier,)) + challenge + response


def mschap_v2_data(
    identifier: int, challenge: bytes, peer_challenge: bytes, *, user: str, secret: bytes
) -> bytes:
    """Build what a device puts into ``data`` for MS-CHAPv2.

    Raises: LocalProtocolError if a challenge has another length than 16 bytes.
    """
    for own in (challenge, peer_challenge):
        _check_own_challenge(own, MSCHAP_V2_CHALLENGE_BYTES, "RFC 8907 section 5.4.2.5")
    response = peer_challenge + bytes(8) + nt_response_v2(challenge, peer_challenge, user, secret) + bytes(1)
    return bytes((identifier,)) + challenge + response


def chap_response(identifier: int, challenge: bytes, secret: bytes) -> bytes:
    """Compute the 16 bytes that answer a CHAP challenge. Source: RFC 1994 section 4.1."""
    return hashlib.md5(bytes((identifier,)) + secret + challenge, usedforsecurity=False).digest()


def nt_response_v2(challenge: bytes, peer_challenge: bytes, user: str, secret: bytes) -> bytes:
    r"""Compute the 24 bytes that answer an MS-CHAPv2 challenge.

    A domain before the name (``DOMAIN\user``) does not enter the computation.
    Source: RFC 2759 sections 8.1 and 8.2.
    """
    name = user.rpartition("\\")[2].encode()
    digest = hashlib.sha1(peer_challenge + challenge + name, usedforsecurity=False).digest()
    return challenge_response(digest[:8], nt_hash(secret))


def nt_hash(secret: bytes) -> bytes:
    """Hash a secret, given as UTF-8, the way Windows stores it. Source: RFC 2759 section 8.3."""
    return md4(secret.decode().encode("utf-16-le"))


def challenge_response(challenge: bytes, password_hash: bytes) -> bytes:
    """Encrypt an 8-byte challenge under the three DES keys that a 16-byte hash makes.

    Source: RFC 2759 section 8.5.
    """
    keys = password_hash.ljust(21, b"\0")
    return b"".join(_des(keys[start : start + 7], challenge) for start in (0, 7, 14))


def md4(message: bytes) -> bytes:
    """Compute an MD4 digest. Source: RFC 1320."""
    padding = b"\x80" + bytes((55 - len(message)) % 64) + struct.pack("<Q", 8 * len(message))
    padded = message + padding
    a, b, c, d = 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476
    for start in range(0, len(padded), 64):
        words = struct.unpack_from("<16I", padded, start)
        new_a, new_b, new_c, new_d = _md4_mix(a, b, c, d, words)
        a, b, c, d = (a + new_a) & _WORD, (b + new_b) & _WORD, (c + new_c) & _WORD, (d + new_d) & _WORD
    return struct.pack("<4I", a, b, c, d)


def _md4_mix(a: int, b: int, c: int, d: int, words: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Stir 16 words into the state, in the letters of the RFC."""
    for number, (constant, order, shifts) in enumerate(_MD4_ROUNDS):
        for step, index in enumerate(order):
            if number == 0:
                chosen = (b & c) | (~b & d)
            elif number == 1:
                chosen = (b & c) | (b & d) | (c & d)
            else:
                chosen = b ^ c ^ d
            total = (a + chosen + words[index] + constant) & _WORD
            shift = shifts[step & 3]
            a, b, c, d = d, ((total << shift) | (total >> (32 - shift))) & _WORD, b, c
    return a, b, c, d


def _des(key_bits: bytes, block: bytes) -> bytes:
    """Encrypt one block with DES, its 56 key bits given as 7 bytes."""
    bits = int.from_bytes(key_bits, "big")
    # DES keeps a parity bit under each seven bits, which nobody looks at; 3DES with equal keys is plain DES.
    key = bytes((bits >> shift & 0x7F) << 1 for shift in range(49, -1, -7))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 - one block, as RFC 2759 says
    return encryptor.update(block) + encryptor.finalize()


def _check_mschap_length(name: str, data: bytes, challenge_bytes: int, section: str) -> None:
    wanted = 1 + challenge_bytes + MSCHAP_RESPONSE_BYTES
    if len(data) != wanted:
        raise WireError(f"{name} data of {len(data)} bytes", f"{wanted} bytes", f"RFC 8907 section {section}")


def _check_own_challenge(challenge: bytes, wanted: int, source: str) -> None:
    if len(challenge) != wanted:
        raise LocalProtocolError(f"a challenge of {len(challenge)} bytes", f"{wanted} bytes", source)
