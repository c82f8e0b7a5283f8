"""SCRAM-SHA-256 and -PLUS, both sides: from message to message, without sockets, users' tables or time.

``ServerExchange`` stands towards a client and learns its ClientKey; ``ClientExchange`` stands towards a server and
proves itself with keys, whether they come from a password or were learned from a client (pass-through).

The package ``scramp`` could not carry this: it refuses the empty user name that libpq sends (``n=``), iteration
counts below 4096 and salts below 12 bytes, both of which PostgreSQL allows, and takes no keys in place of a password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sojourn.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError, WireError
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"
BINDING_TYPE: Final = b"tls-server-end-point"
"""The only channel binding of PostgreSQL. Source: RFC 5929 section 4."""

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 18
"""As PostgreSQL's own: 24 characters in base64."""

ITERATIONS_COUNT: Final = 4096
"""For secrets that we make. Source: RFC 7677 section 4, and PostgreSQL's default for ``scram_iterations``."""

MAX_ITERATIONS_COUNT: Final = 1_000_000
"""A server that asks for more would hold a thread for more than half a second."""

MAX_MESSAGE_BYTES: Final = 1024
"""Longer messages are refused. Source: PostgreSQL takes no longer ones either."""

_RFC: Final = "RFC 5802 section 7"
_FIRST: Final = re.compile(rb"n=([^,\0]*),r=([\x21-\x2b\x2d-\x7e]+)(?:,[A-Za-z]=[^,\0]+)*")
_FINAL: Final = re.compile(rb"(c=([^,\0]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[A-Za-z]=[^,\0]+)*),p=([^,\0]+)")
_CHALLENGE: Final = re.compile(
    rb"r=([\x21-\x2b\x2d-\x7e]+),s=([^,\0]+),i=([1-9][0-9]{0,9})(?:,[A-Za-z]=[^,\0]+)*"
)
_OUTCOME: Final = re.compile(rb"v=([^,\0]+)(?:,[A-Za-z]=[^,\0]+)*")
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,9}):([^$:]+)\$([^$:]+):([^$:]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server stores of a password: enough to check a client, not enough to log in anywhere."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def text(self) -> str:
        """Return the form in ``pg_authid.rolpassword``; a secret."""
        keys = f"{_encoded(self.stored_key).decode()}:{_encoded(self.server_key).decode()}"
        return f"{SCRAM}${self.iterations}:{_encoded(self.salt).decode()}${keys}"


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What proves a client to every server that has the same verifier: as good as the password there.

    Always true: the StoredKey is the hash of ``client_key``; all belong to ``salt`` and ``iterations``.
    """

    salt: bytes
    iterations: int
    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @property
    def verifier(self) -> Verifier:
        """What a server stores of it."""
        return Verifier(self.salt, self.iterations, _sha256(self.client_key), self.server_key)


def parse_verifier(text: str) -> Verifier | None:
    """Return the verifier that is written ``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey``, or None."""
    found = _VERIFIER.fullmatch(text)
    if found is None or not text.isascii():
        return None
    salt, stored_key, server_key = (_decoded(part.encode()) for part in found.groups()[1:])
    if not salt or stored_key is None or server_key is None:
        return None
    if len(stored_key) != KEY_BYTES or len(server_key) != KEY_BYTES:
        return None
    return Verifier(salt, int(found[1]), stored_key, server_key)


def normalized(password: bytes) -> bytes:
    """Return what is hashed of a password: SASLprep's form, or the password itself where SASLprep has none.

    Source: RFC 4013; PostgreSQL, "SASL Authentication": text that is no valid UTF-8, or that SASLprep prohibits, is
    taken as it is. ASCII is never changed.
    """
    if password.isascii():
        return password
    # Late: most passwords are ASCII, and the library takes a while to load.
    from passlib.utils import saslprep  # noqa: PLC0415 - the line above says why

    try:
        prepared: str = saslprep(password.decode())
    except ValueError:  # invalid UTF-8 too
        return password
    return prepared.encode() or password


def derive_keys(password: bytes, salt: bytes, iterations: int) -> ScramKeys:
    """Return the keys that a password gives; takes about a millisecond for 4096 iterations.

    Raises: LimitExceeded above ``MAX_ITERATIONS_COUNT``.
    """
    if iterations > MAX_ITERATIONS_COUNT:
        raise LimitExceeded("iterations of SCRAM", iterations, MAX_ITERATIONS_COUNT)
    salted = hashlib.pbkdf2_hmac("sha256", normalized(password), salt, iterations)
    return ScramKeys(salt, iterations, _hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


class KeyCache:
    """Keys derived from passwords, the latest used ones; and the salts of users who have none of their own.

    Lives as long as the process, and holds no password: entries are found by a keyed hash of it. Always true: at most
    ``size_count`` entries; a user's made-up salt never changes in the life of ``process_key``. Workers that share
    an address must share the key, or a salt that differs between them tells that a user does not exist.
    """

    def __init__(self, *, size_count: int = 4096, process_key: bytes | None = None) -> None:
        self._size_count = size_count
        self._process_key = process_key or secrets.token_bytes(KEY_BYTES)
        self._keys: OrderedDict[bytes, ScramKeys] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def share(self, process_key: bytes) -> None:
        """Go on with a key that other workers have too; what was kept is forgotten."""
        self._process_key = process_key
        self._keys.clear()

    def find(self, password: bytes, salt: bytes, iterations: int) -> ScramKeys | None:
        """Return the keys if they are known."""
        place = self._place(password, salt, iterations)
        keys = self._keys.get(place)
        if keys is not None:
            self._keys.move_to_end(place)
        return keys

    def keep(self, password: bytes, keys: ScramKeys) -> None:
        """Remember the keys of a password that is right; those of wrong ones would push them out."""
        self._keys[self._place(password, keys.salt, keys.iterations)] = keys
        if len(self._keys) > self._size_count:
            self._keys.popitem(last=False)

    def salt_of(self, user: str) -> bytes:
        """Return the salt of a user whom we have no verifier of."""
        return self._made_up("salt", user)[:SALT_BYTES]

    def mock_verifier(self, user: str) -> Verifier:
        """Return a verifier that nobody has the password of, always the same for a user."""
        keys = self._made_up("stored key", user), self._made_up("server key", user)
        return Verifier(self.salt_of(user), ITERATIONS_COUNT, *keys)

    def _made_up(self, what: str, user: str) -> bytes:
        return _hmac(self._process_key, f"{what}\0{user}".encode("utf-8", "surrogateescape"))

    def _place(self, password: bytes, salt: bytes, iterations: int) -> bytes:
        return _hmac(self._process_key, b"%d,%d,%b%b" % (iterations, len(salt), salt, password))


class ServerExchange:
    """One login of a client: ``first``, ``final``, and then its ClientKey if it proved to know it.

    Args:
        verifier: what the client must know the password of.
        channel_binding: of our certificate; with it the client is known to have been offered -PLUS.
        is_mock: there is no such user; the exchange ends like one with a wrong password.
        nonce: our part of it; for tests.
    """

    __slots__ = ("_auth_message", "_binding", "_cbind_input", "_is_mock", "_nonce", "_verifier", "client_key")

    def __init__(
        self, verifier: Verifier, *, channel_binding: bytes = b"", is_mock: bool = False, nonce: bytes = b""
    ) -> None:
        self._verifier = verifier
        self._binding = channel_binding
        self._is_mock = is_mock
        self._nonce = nonce or new_nonce()
        self._cbind_input = b""
        self._auth_message = b""
        self.client_key = b""

    def first(self, mechanism: str, data: bytes) -> bytes:
        """Take the client-first-message, return the server-first-message.

        Raises: WireError, Refusal where what the client wants is not ours to give.
        Source: RFC 5802 sections 6 and 7.
        """
        flag, header, bare = _split_header(data)
        if (mechanism == SCRAM_PLUS) != (flag[:2] == b"p="):
            raise WireError(
                "a channel binding flag that does not go with the mechanism", "one that does", _RFC
            )
        if flag[:2] == b"p=" and flag[2:] != BINDING_TYPE:
            raise Refusal(SQLSTATE.PROTOCOL_VIOLATION, "channel binding of an unsupported type in SCRAM")
        if flag == b"y" and self._binding:
            # The client saw an offer without -PLUS, which we never made: somebody in between took it out.
            raise Refusal(SQLSTATE.INVALID_AUTHORIZATION, "the offer of SCRAM channel binding did not arrive")
        if bare[:2] == b"m=":
            raise Refusal(SQLSTATE.FEATURE_NOT_SUPPORTED, "a mandatory SCRAM extension is not supported")
        found = _FIRST.fullmatch(bare)
        if found is None:
            raise WireError("a malformed client-first-message", "n=user,r=nonce", _RFC)
        self._cbind_input = header + (self._binding if flag[:2] == b"p=" else b"")
        self._nonce = found[2] + self._nonce
        salt = _encoded(self._verifier.salt)
        challenge = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        self._auth_message = bare + b"," + challenge
        return challenge

    def final(self, data: bytes) -> bytes | None:
        """Take the client-final-message, return the server-final-message, or None if the proof is wrong.

        Raises: WireError, Refusal where channel binding or nonce are not those of this exchange.
        """
        if not self._auth_message:
            raise LocalProtocolError("final before first", "first", _RFC)
        found = _FINAL.fullmatch(_checked(data))
        proof = _decoded(found[4]) if found else None
        if found is None or proof is None or len(proof) != KEY_BYTES:
            raise WireError("a malformed client-final-message", "c=binding,r=nonce,p=proof", _RFC)
        if not hmac.compare_digest(found[2], _encoded(self._cbind_input)):
            raise Refusal(SQLSTATE.INVALID_AUTHORIZATION, "the SCRAM channel binding does not match")
        if not hmac.compare_digest(found[3], self._nonce):
            raise Refusal(SQLSTATE.PROTOCOL_VIOLATION, "the SCRAM nonce does not match")
        message = self._auth_message + b"," + found[1]
        client_key = _xor(proof, _hmac(self._verifier.stored_key, message))
        is_right = hmac.compare_digest(_sha256(client_key), self._verifier.stored_key)
        if not is_right or self._is_mock:
            return None
        self.client_key = client_key
        return b"v=" + _encoded(_hmac(self._verifier.server_key, message))


class Challenge(NamedTuple):
    """What a server wants the keys for."""

    salt: bytes
    iterations: int


class ClientExchange:
    """One login of ours at a server: ``first``, ``challenge``, ``final``, ``verify``.

    Args:
        channel_binding: of the server's certificate, b"" without TLS.
        is_offered: the server offers -PLUS; the exchange is bound to the channel if we can, too.
        user: PostgreSQL takes the user from the startup message and ignores this one.
        nonce: our part of it; for tests.
    """

    __slots__ = ("_auth_message", "_cbind_input", "_final", "_nonce", "_server_key", "mechanism")

    def __init__(
        self, *, channel_binding: bytes = b"", is_offered: bool = False, user: bytes = b"", nonce: bytes = b""
    ) -> None:
        is_bound = bool(channel_binding) and is_offered
        # "y" lets the server find out that somebody took -PLUS out of its offer (RFC 5802 section 6).
        flag = b"p=" + BINDING_TYPE if is_bound else b"y" if channel_binding else b"n"
        self.mechanism: str = SCRAM_PLUS if is_bound else SCRAM
        self._cbind_input = flag + b",,"
        self._nonce = nonce or new_nonce()
        self._auth_message = b"n=%b,r=%b" % (user, self._nonce)
        self._final = b"c=" + _encoded(flag + b",," + (channel_binding if is_bound else b"")) + b",r="
        self._server_key = b""

    def first(self) -> bytes:
        """Return the client-first-message."""
        return self._cbind_input + self._auth_message

    def challenge(self, data: bytes) -> Challenge:
        """Take the server-first-message.

        Raises: WireError, RemoteProtocolError for a nonce that does not go on from ours.
        """
        found = _CHALLENGE.fullmatch(_checked(data))
        salt = _decoded(found[2]) if found else None
        if found is None or not salt:
            raise WireError("a malformed server-first-message", "r=nonce,s=salt,i=iterations", _RFC)
        if not found[1].startswith(self._nonce) or len(found[1]) == len(self._nonce):
            raise RemoteProtocolError("a nonce that does not go on from ours", "one that does", _RFC)
        self._auth_message += b"," + data
        self._final += found[1]
        return Challenge(salt, int(found[3]))

    def final(self, keys: ScramKeys) -> bytes:
        """Return the client-final-message: the proof that we have the keys."""
        self._auth_message += b"," + self._final
        self._server_key = keys.server_key
        proof = _xor(keys.client_key, _hmac(_sha256(keys.client_key), self._auth_message))
        return self._final + b",p=" + _encoded(proof)

    def verify(self, data: bytes) -> None:
        """Take the server-final-message: the server's proof that it knows the verifier.

        Raises: WireError, RemoteProtocolError if it does not.
        """
        found = _OUTCOME.fullmatch(_checked(data))
        signature = _decoded(found[1]) if found else None
        if signature is None:
            raise WireError("a malformed server-final-message", "v=signature", _RFC)
        if not hmac.compare_digest(signature, _hmac(self._server_key, self._auth_message)):
            raise RemoteProtocolError("a server signature that is wrong", "one that proves the server", _RFC)


def new_nonce() -> bytes:
    """Return a fresh nonce's part of one side."""
    return _encoded(secrets.token_bytes(NONCE_BYTES))


def _split_header(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the channel binding flag, the whole gs2-header with its commas, and what follows."""
    parts = _checked(data).split(b",", 2)
    if len(parts) == 3 and parts[1][:2] == b"a=":  # noqa: PLR2004 - the line above
        raise Refusal(SQLSTATE.FEATURE_NOT_SUPPORTED, "a SCRAM authorization identity is not supported")
    if len(parts) != 3 or parts[1] or not (parts[0] in {b"n", b"y"} or parts[0][:2] == b"p="):  # noqa: PLR2004
        raise WireError("a malformed gs2-header", "n, y or p=, and two commas", _RFC)
    return parts[0], parts[0] + b",,", parts[2]


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a SCRAM message of {len(data)} bytes", f"at most {MAX_MESSAGE_BYTES}", _RFC)
    return data


def _encoded(data: bytes) -> bytes:
    return base64.b64encode(data)


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(KEY_BYTES, "big")
