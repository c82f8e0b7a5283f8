"""An issuer of tokens for tests: real keys, a real HTTP server that can be stopped, and tokens of every bad kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sojourn.core.server import Server
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.auth import Authenticator
from sojourn.testing import ManualClock

ISSUER = "https://login.test/"
AUDIENCE = "sojourn"
NOW = 1_800_000_000.0

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
SHORT_RSA_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key, kid, **more):
    """Return the public half of a key as a JWK."""
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        made = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        made = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        made = jwt.algorithms.OKPAlgorithm.to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, **more}


def claims(**changed):
    """Return good claims, changed; a value of None takes a claim out."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ana",
        "scope": "exchange other",
        "iat": NOW - 10,
        "exp": NOW + 600,
        "jti": "token-1",
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def token(key=RSA_KEY, algorithm="RS256", kid="rsa", headers=None, **changed):
    """Return a signed token."""
    head = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changed), key, algorithm=algorithm, headers={**head, **(headers or {})})


def part(value):
    """Return one part of a token that is put together by hand."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class Issuer:
    """An identity provider on loopback; ``keys`` is what it publishes, ``answers`` what it says of tokens."""

    def __init__(self):
        self.keys = [jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec"), jwk(ED_KEY, "ed")]
        self.answers = {}
        self.status = 200
        self.body = None
        self.asked = 0
        self.credentials = []
        self.gate = asyncio.Event()
        self.gate.set()
        app = web.Application()
        app.add_routes([web.get("/jwks", self._jwks), web.post("/introspect", self._introspect)])
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self):
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _jwks(self, _request):
        self.asked += 1
        await self.gate.wait()
        return web.Response(status=self.status, body=self.body or json.dumps({"keys": self.keys}).encode())

    async def _introspect(self, request):
        self.asked += 1
        self.credentials.append(request.headers["Authorization"])
        await self.gate.wait()
        form = await request.post()
        answer = self.answers.get(form["token"], {"active": False})
        return web.Response(status=self.status, body=self.body or json.dumps(answer).encode())


class Lab:
    """One authenticator with clocks that tests move."""

    def __init__(self, settings):
        self.clock = ManualClock()
        self.wall_now = NOW
        self.server = Server(clock=self.clock)
        self.auth = Authenticator(settings, self.server, clock=self.clock, wall=lambda: self.wall_now)

    def advance(self, seconds):
        """Let time pass, on both clocks."""
        self.clock.advance(seconds)
        self.wall_now += seconds


@contextlib.asynccontextmanager
async def authenticating(settings):
    """Run an authenticator."""
    lab = Lab(settings)
    await lab.server.start()
    try:
        await lab.auth.start()
        yield lab
    finally:
        await lab.auth.stop()
        await lab.server.stop(timeout_s=0)


class MemoryTickets:
    """Tickets in a dict, as one pod's bus keeps them."""

    def __init__(self, clock):
        self.clock = clock
        self.kept = {}
        self.is_away = False

    async def put_ticket(self, ticket, value, ttl_s):
        if self.is_away:
            raise BackendUnavailable("bus", 0.0, "away")
        return self.kept.setdefault(ticket, (value, self.clock() + ttl_s))[0] is value

    async def take_ticket(self, ticket):
        if self.is_away:
            raise BackendUnavailable("bus", 0.0, "away")
        value, until = self.kept.pop(ticket, (None, 0.0))
        return value if self.clock() < until else None
