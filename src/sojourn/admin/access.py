"""Who asks, and what they may: bearer tokens with scopes, browsers with a cookie, the one-time links that let them in.

Theory of operation. Over the control socket the file system has said who may come in; who is there may do everything.
Over TCP a request shows a bearer token, or the cookie of a browser session. A browser gets its cookie for the secret of
a link, which ``sojourn login-link`` makes over the control socket; it works once. A cookie comes with every request to
this address, whoever's page made it; so whatever is no GET must show the session's CSRF token as well, which other
pages cannot read, and an Origin that is not ours is refused. SameSite=Strict says the same to browsers that know it.

Of links and cookies only digests are kept. Knows no HTTP library.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple, final

import msgspec

from sojourn.admin.config import AdminSettings, BrowserSettings
from sojourn.admin.problems import Kind
from sojourn.core.clock import Clock, monotonic
from sojourn.core.panel import Scope
from sojourn.core.secret import Secret
from sojourn.web.problems import Refusal

SCOPES: Final[tuple[Scope, ...]] = ("view", "operate", "admin")
"""Each may what those before it may."""
CSRF_HEADER: Final = "X-CSRF-Token"
READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that order nothing."""
_SECRET_BYTES: Final = 32
_LONGEST_SECRET_CHARACTERS: Final = 256


class Caller(NamedTuple):
    """Who asks.

    ``scope``: none for nobody. ``name`` is what the audit log calls them. ``browser``: of those that have a cookie.
    """

    name: str
    scope: Scope | None
    browser: Browser | None = None

    def may(self, scope: str) -> bool:
        """Say whether the caller may do what ``scope`` may."""
        return scope == "open" or (self.scope is not None and SCOPES.index(self.scope) >= SCOPES.index(scope))


class Link(msgspec.Struct):
    """A login link that nobody has used. ``expires`` is monotonic seconds."""

    name: str
    scope: Scope
    expires: float


class Browser(msgspec.Struct):
    """A browser that was let in. ``expires`` and ``seen`` are monotonic seconds; ``digest`` is of its cookie."""

    name: str
    scope: Scope
    csrf_token: str
    digest: bytes
    expires: float
    seen: float


class _Token(NamedTuple):
    name: str
    scope: Scope
    value: Secret


@final
class Access:
    """Everything that is known of who may come in over TCP.

    Life: one per server of the API. Always true: at most so many links and browsers are known as the settings say.
    """

    def __init__(self, settings: AdminSettings, clock: Clock = monotonic) -> None:
        self._browsers_settings: BrowserSettings = settings.browsers
        self._clock = clock
        self._tokens = [_Token(one.name, one.scope, one.token) for one in settings.tokens]
        if settings.token is not None:
            self._tokens.append(_Token("token", "admin", settings.token))
        self._links: OrderedDict[bytes, Link] = OrderedDict()
        self._browsers: OrderedDict[bytes, Browser] = OrderedDict()
        self._origins = frozenset(settings.browsers.origins)
        self.metrics_without_token = settings.metrics_without_token

    @property
    def is_closed(self) -> bool:
        """Say whether nobody can come in: no token, no link, no browser."""
        return not (self._tokens or self._links or self._browsers)

    # Tokens

    def of_token(self, authorization: str) -> Caller | None:
        """Return whose token an Authorization header shows, None if it is nobody's; every token is compared."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        shown = given.strip().encode("utf-8", "surrogateescape")
        found = None
        for token in self._tokens:
            if hmac.compare_digest(shown, token.value.reveal().encode()):
                found = Caller(
                    "the token" if token.name == "token" else f"the token {token.name}", token.scope
                )
        return found

    # Browsers

    def new_link(self, name: str, scope: Scope) -> tuple[str, float]:
        """Make a login link; return its secret, and in how many seconds it is no longer good."""
        settings = self._browsers_settings
        while len(self._links) >= settings.links_count:
            self._links.popitem(last=False)
        value = secrets.token_urlsafe(_SECRET_BYTES)
        self._links[_digest(value)] = Link(name, scope, self._clock() + settings.link_lifetime_s)
        return value, settings.link_lifetime_s

    def log_in(self, value: str) -> tuple[str, Browser]:
        """Use a login link up; return the cookie's value and the browser that it stands for.

        Raises: Refusal if the link is none, was used, or is too old.
        """
        now = self._clock()
        link = self._links.pop(_digest(value), None)
        if link is None or now >= link.expires:
            raise Refusal(Kind.BAD_LINK)
        settings = self._browsers_settings
        while len(self._browsers) >= settings.sessions_count:
            self._browsers.popitem(last=False)
        cookie = secrets.token_urlsafe(_SECRET_BYTES)
        browser = Browser(
            link.name,
            link.scope,
            secrets.token_urlsafe(_SECRET_BYTES),
            _digest(cookie),
            now + settings.lifetime_s,
            now,
        )
        self._browsers[browser.digest] = browser
        return cookie, browser

    def log_out(self, browser: Browser) -> None:
        """Forget a browser."""
        self._browsers.pop(browser.digest, None)

    def of_cookie(self, value: str) -> Caller | None:
        """Return whose cookie it is, None if it is nobody's (any more)."""
        now = self._clock()
        browser = self._browsers.get(_digest(value))
        if browser is None:
            return None
        if not self.is_good(browser):
            self.log_out(browser)
            return None
        browser.seen = now
        return Caller(f"the browser of {browser.name}", browser.scope, browser)

    def is_good(self, browser: Browser) -> bool:
        """Say whether a browser is still logged in; asked again and again while it listens to a stream."""
        now = self._clock()
        is_known = self._browsers.get(browser.digest) is browser
        return (
            is_known and now < browser.expires and now - browser.seen < self._browsers_settings.idle_timeout_s
        )

    def stay(self, browser: Browser) -> None:
        """Note that a browser is there."""
        browser.seen = self._clock()

    def expires_in_s(self, browser: Browser) -> float:
        """Return how long a browser stays logged in at the most."""
        return max(0.0, browser.expires - self._clock())

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """Refuse what a page of somebody else's asks. Source: RFC 6454 section 7, Fetch standard (Sec-Fetch-Site).

        A browser says no Origin with a GET of the page's own; with anything else it always does.
        Raises: Refusal.
        """
        origin = headers.get("Origin")
        if origin is None:
            is_ours = method in READING_METHODS and headers.get("Sec-Fetch-Site", "none") in {
                "none",
                "same-origin",
            }
        else:
            is_ours = origin == f"http://{headers.get('Host', '')}" or origin in self._origins
        if not is_ours:
            raise Refusal(Kind.BAD_ORIGIN)

    def check_csrf(self, browser: Browser, shown: str) -> None:
        """Refuse an order that a page gave which does not know the session's CSRF token.

        Raises: Refusal.
        """
        if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), browser.csrf_token.encode()):
            raise Refusal(Kind.NO_CSRF)

    def wants_secure(self, origin: str) -> bool:
        """Say whether the cookie must go over TLS only, as the page came: through a proxy of ours."""
        return origin.startswith("https://") and origin in self._origins


def _digest(value: str) -> bytes:
    """Return what is kept of a secret; one that is too long is of nobody, and not worth its hash."""
    data = value[:_LONGEST_SECRET_CHARACTERS].encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).digest()
