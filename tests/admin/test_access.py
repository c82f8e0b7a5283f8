"""Who may come in and do what: tokens with scopes, browsers with a cookie, pages that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re

import aiohttp
import pytest
from admin_lab import TOKENS, admin_lab, admin_settings
from admin_sites import NOWHERE, SITES, admin_site

from sojourn.admin.access import Access
from sojourn.admin.config import AdminSettings, AttemptSettings, BrowserSettings, TokenSettings
from sojourn.admin.problems import Kind
from sojourn.core.secret import Secret
from sojourn.testing import ManualClock
from sojourn.web.config import AddressRateSettings
from sojourn.web.problems import Refusal

SCOPES = ("", "view", "operate", "admin")
WAYS = ("token", "cookie")


@pytest.mark.parametrize("name", SITES)
def test_every_operation_of_the_document_is_for_its_scope_and_nobody_below(run, tmp_path, name):
    """By token and by cookie: refused with 401 for nobody, 403 for too little, and else neither."""

    async def scene():
        async with admin_site(name, tmp_path) as site:
            found = list(site.operations())
            assert {one.scope for one in found} >= {"view", "operate"}
            for asked, scope, way in itertools.product(found, SCOPES, WAYS):
                if scope == "admin" and asked.path.endswith(("/drain", "/reload")):
                    site.view.orders.clear()
                async with guest(site, scope, way) as http:
                    status = await status_of(http, site, asked)
                what = (asked.method, asked.path, scope, way, status)
                if asked.scope != "open" and SCOPES.index(scope) < SCOPES.index(asked.scope):
                    assert status == (403 if scope else 401), what
                    assert site.view.orders == []
                else:
                    assert status not in {401, 403, 405, 500}, what
                site.view.orders.clear()

    run(scene())


@contextlib.asynccontextmanager
async def guest(site, scope, way):
    """Return a client that is let in with a scope; with none it is nobody, whichever way it comes."""
    headers = {}
    if scope and way == "token":
        headers["Authorization"] = f"Bearer {TOKENS[scope]}"
    async with aiohttp.ClientSession(headers=headers, cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        if scope and way == "cookie":
            page = Browser(site, http)
            assert (await page.log_in(site.admin.login_link(scope=scope)))[0] == 200
            http.headers.update({"X-CSRF-Token": page.csrf, "Origin": page.origin})
        yield http


async def status_of(http, site, asked):
    """Ask an operation about what is not there; of a stream the beginning is enough."""
    url = site.url + re.sub(r"\{\w+\}", NOWHERE, asked.path)
    body = {"json": {}} if asked.has_body else {}
    async with http.request(asked.method, url, **body) as answer:
        return answer.status


class Browser:
    """A browser on the dashboard: it keeps its cookie, and says where its page is from."""

    def __init__(self, lab, http):
        self.lab, self.http = lab, http
        self.csrf = ""
        self.origin = f"http://{lab.admin.address}"

    async def log_in(self, link):
        async with self.http.post(
            self.origin + "/api/v1/login",
            json={"token": link.partition("#")[2]},
            headers={"Origin": self.origin},
        ) as answer:
            body = await answer.json()
            self.csrf = body.get("csrf_token", "")
            return answer.status, body, answer.headers.get("Set-Cookie", "")

    async def ask(self, method, path, **headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, self.origin + path, headers=given) as answer:
            body = await answer.json() if answer.content_type.endswith("json") else None
            return answer.status, body


def browser(lab):
    """Return a client that keeps cookies, also those of addresses."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


def test_a_login_link_lets_one_browser_in_once(run, tmp_path):
    """The cookie is out of scripts' reach and of other sites'; nothing of the link is in a URL that a server sees."""

    async def scene():
        async with admin_lab(tmp_path) as lab, browser(lab) as http, browser(lab) as other:
            async with lab.local.post(
                "/api/v1/login-links", json={"scope": "operate", "name": "ana"}
            ) as answer:
                link = (await answer.json())["url"]
            assert link.startswith(f"http://{lab.admin.address}/login#")
            page = Browser(lab, http)
            status, body, cookie = await page.log_in(link)
            assert (status, body["name"], body["scope"]) == (200, "ana", "operate")
            for word in ("HttpOnly", "SameSite=Strict", "Path=/"):
                assert word in cookie
            assert "Secure" not in cookie
            assert (await page.ask("GET", "/api/v1/session"))[1]["csrf_token"] == page.csrf
            assert (await Browser(lab, other).log_in(link))[0] == 401
            csrf = {"X_CSRF_Token": page.csrf, "Origin": page.origin}
            assert (await page.ask("POST", "/api/v1/drain", **csrf))[0] == 403  # operate may not
            assert (await page.ask("POST", "/api/v1/logout", **csrf))[0] == 204
            assert (await page.ask("GET", "/api/v1/session"))[0] == 401
            _, audit = await lab.ask("GET", "/api/v1/audit", "admin")
            told = [(one["what"], one["outcome"]) for one in reversed(audit["entries"])]
            assert told == [
                ("new login link for ana, operate", "done"),
                ("login", "done"),
                ("login", "refused: Unauthorized"),
                ("drain", "refused: Forbidden"),
                ("logout", "done"),
            ]
            assert audit["entries"][0]["who"] == "the browser of ana from 127.0.0.1"
            assert link.partition("#")[2] not in str(audit)

    run(scene())


def test_an_order_of_a_browser_needs_the_pages_token_and_its_origin(run, tmp_path):
    """A form or script of another page has the cookie at best: it gets 403 and nothing is done."""

    async def scene():
        async with admin_lab(tmp_path) as lab, browser(lab) as http:
            page = Browser(lab, http)
            assert (await page.log_in(lab.admin.login_link()))[0] == 200
            good = {"X_CSRF_Token": page.csrf, "Origin": page.origin}
            bad = (
                {},
                {"Origin": page.origin},
                {"X_CSRF_Token": page.csrf},
                {**good, "X_CSRF_Token": page.csrf + "x"},
                {**good, "X_CSRF_Token": ""},
                {**good, "Origin": "http://evil.example"},
                {**good, "Origin": "null"},
                {**good, "Origin": page.origin.replace("http", "https")},
                {**good, "Origin": f"http://127.0.0.1:{int(page.origin.rpartition(':')[2]) % 65535 + 1}"},
            )
            for headers in bad:
                status, problem = await page.ask("POST", "/api/v1/drain", **headers)
                assert (status, problem["status"]) == (403, 403), headers
            assert lab.view.orders == []
            assert (await page.ask("POST", "/api/v1/drain", **good))[0] == 202
            assert lab.view.orders == ["drain"]

    run(scene())


def test_what_another_page_may_not_order_it_may_not_read(run, tmp_path):
    """Another port of this host is the same site, so its pages' requests do bring the cookie."""

    async def scene():
        async with admin_lab(tmp_path) as lab, browser(lab) as http:
            page = Browser(lab, http)
            await page.log_in(lab.admin.login_link())
            for headers in (
                {"Origin": "http://127.0.0.1:1"},
                {"Sec_Fetch_Site": "same-site"},
                {"Sec_Fetch_Site": "cross-site"},
            ):
                assert (await page.ask("GET", "/api/v1/sessions", **headers))[0] == 403
            for headers in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}):
                assert (await page.ask("GET", "/api/v1/sessions", **headers))[0] == 200

    run(scene())


@pytest.mark.parametrize("value", ["", "x", "x" * 4_000, "\udcff", "a=b; c"])
def test_a_forged_cookie_is_nobodys(run, tmp_path, value):
    """401, and no word about why."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            port = lab.admin.address.rpartition(":")[2]
            cookie = f"sojourn_{port}={value}".encode("utf-8", "surrogateescape").decode("latin-1")
            status, problem = await lab.ask("GET", "/api/v1/sessions", "", headers={"Cookie": cookie})
            assert (status, problem["title"]) == (401, "Who are you?")

    run(scene())


def test_a_wrong_token_beside_a_good_cookie_is_refused(run, tmp_path):
    """Who says who they are is believed or not; nothing else is tried then."""

    async def scene():
        async with admin_lab(tmp_path) as lab, browser(lab) as http:
            page = Browser(lab, http)
            await page.log_in(lab.admin.login_link())
            assert (await page.ask("GET", "/api/v1/sessions", Authorization="Bearer wrong"))[0] == 401
            token = f"Bearer {TOKENS['view']}"
            assert (await page.ask("GET", "/api/v1/sessions", Authorization=token))[0] == 200

    run(scene())


def test_wrong_tokens_and_links_are_counted_per_address(run, tmp_path):
    """After so many, 429; a good token of the same address is served all the same."""
    browsers = BrowserSettings(attempts=AttemptSettings(requests_per_s=0.001, burst_count=3))

    async def scene():
        async with admin_lab(tmp_path, admin_settings(browsers=browsers)) as lab:
            wrong = {"Authorization": "Bearer wrong"}
            seen = [(await lab.ask("GET", "/api/v1/sessions", "", headers=wrong))[0] for _ in range(3)]
            seen.append((await lab.ask("POST", "/api/v1/login", "", json={"token": "x"}))[0])
            assert seen == [401, 401, 401, 429]
            assert (await lab.ask("GET", "/api/v1/sessions"))[0] == 200

    run(scene())


def test_requests_of_one_address_are_limited_and_health_checks_are_not(run, tmp_path):
    """429 with Retry-After, before anything is done for the request."""
    settings = admin_settings(requests=AddressRateSettings(requests_per_s=0.001, burst_count=2))

    async def scene():
        async with admin_lab(tmp_path, settings) as lab:
            seen = [(await lab.ask("GET", "/api/v1/sessions"))[0] for _ in range(3)]
            assert seen == [200, 200, 429]
            assert (await lab.ask("GET", "/healthz", ""))[0] == 200

    run(scene())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/sessions?search=" + "x" * 3_000, 400),
        ("/api/v1/sessions?" + "&".join(f"a{n}=1" for n in range(400)), 400),
        ("/api/v1/events?kind=%00", 400),
        ("/api/v1/peers?limit=99999999999999999999", 400),
        ("/api/v1/sessions?search=" + "x" * 20_000, 431),
        ("/static/../api.py", 404),
        ("/static/%2e%2e/api.py", 404),
        ("/static/panels/..%2f..%2fx.js", 404),
    ],
)
def test_huge_and_crooked_requests_are_refused(run, tmp_path, path, status):
    """As a problem, or as a line that is too long; never as an error of ours."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            async with lab.remote.get(path, headers={"Authorization": f"Bearer {TOKENS['view']}"}) as answer:
                assert (answer.status, answer.content_type) == (status, "application/problem+json")
            assert (await lab.ask("GET", "/healthz", ""))[0] == 200

    run(scene())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /api/v1/<script> HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01<script>\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: <script>\x00\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: <script>\r\n" * 200 + b"\r\n", 400),
    ],
)
def test_what_is_no_http_is_answered_with_a_problem_and_told_nobody(run, tmp_path, caplog, sent, status):
    """Neither the answer nor the log holds a word of it; the connection ends."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            host, _, port = lab.admin.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = await reader.read()
            writer.close()
            assert head.split()[1] == str(status)
            assert "Content-Type: application/problem+json" in head
            assert "X-Content-Type-Options: nosniff" in head
            assert json.loads(body)["status"] == status
            assert b"script" not in body
            assert not caplog.records

    run(scene())


@contextlib.asynccontextmanager
async def plain_connection(lab):
    """Connect to the API without an HTTP client; yields reader and writer."""
    host, _, port = lab.admin.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def status_of_health(reader, writer):
    """Ask once; return the status."""
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    await reader.readexactly(int(re.search(r"Content-Length: (\d+)", head)[1]))
    return int(head.split()[1])


def test_a_head_that_never_ends_ends_its_connection(run, tmp_path):
    """Whoever sends it byte by byte holds nothing for long; a connection with a request behind it goes on."""

    async def scene():
        async with (
            admin_lab(tmp_path, admin_settings(head_timeout_s=0.2)) as lab,
            plain_connection(lab) as (slow, writer),
            plain_connection(lab) as other,
        ):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
            assert await status_of_health(*other) == 200
            assert await slow.read() == b""
            assert await status_of_health(*other) == 200

    run(scene())


def test_more_connections_than_allowed_are_closed_and_the_rest_are_served(run, tmp_path):
    """Before a byte of them was read."""

    async def scene():
        async with (
            admin_lab(tmp_path, admin_settings(connections_count=2)) as lab,
            plain_connection(lab) as first,
            plain_connection(lab) as second,
        ):
            assert await status_of_health(*first) == 200
            assert await status_of_health(*second) == 200
            async with plain_connection(lab) as (reader, _):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            assert await status_of_health(*first) == 200

    run(scene())


def test_a_name_that_leads_here_by_deceit_opens_nothing(run, tmp_path):
    """DNS rebinding: the page's origin is the host that it asks, but the cookie is of another one."""

    async def scene():
        async with admin_lab(tmp_path) as lab, browser(lab) as http:
            await Browser(lab, http).log_in(lab.admin.login_link())
            headers = {"Host": "evil.example:9300", "Origin": "http://evil.example:9300"}
            for method, path in (("GET", "/api/v1/sessions"), ("POST", "/api/v1/drain")):
                assert (await lab.ask(method, path, "", headers=headers))[0] == 401
            assert lab.view.orders == []

    run(scene())


def test_the_page_is_served_with_a_strict_policy_and_to_everybody(run, tmp_path):
    """It holds no data; its files are kept by caches as long as they are the same, the page itself never is."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            for path in ("/", "/login"):
                async with lab.remote.get(path) as answer:
                    assert (answer.status, answer.content_type) == (200, "text/html")
                    assert answer.headers["Cache-Control"] == "no-store"
                    policy = answer.headers["Content-Security-Policy"]
                    assert policy.startswith("default-src 'self';")
                    assert "unsafe" not in policy
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
            async with lab.remote.get("/static/kit.js") as answer:
                etag = answer.headers["ETag"]
                assert answer.headers["Cache-Control"] == "no-cache"
            async with lab.remote.get("/static/kit.js", headers={"If-None-Match": etag}) as answer:
                assert answer.status == 304

    run(scene())


def settings_with(**browsers):
    return AdminSettings(browsers=BrowserSettings(**browsers))


def test_links_and_browsers_age(run):
    """A link for its time, a browser for its own, and less when it is idle."""
    clock = ManualClock()
    access = Access(settings_with(link_lifetime_s=10, lifetime_s=100, idle_timeout_s=30), clock)
    late, _ = access.new_link("ana", "view")
    clock.advance(10)
    with pytest.raises(Refusal) as refused:
        access.log_in(late)
    assert refused.value.kind is Kind.BAD_LINK
    cookie, _ = access.log_in(access.new_link("ana", "view")[0])
    for _ in range(3):
        clock.advance(29)
        assert access.of_cookie(cookie).name == "the browser of ana"
    clock.advance(13)
    assert access.of_cookie(cookie) is None  # its time is over
    cookie, _ = access.log_in(access.new_link("ana", "view")[0])
    clock.advance(30)
    assert access.of_cookie(cookie) is None  # it was idle
    assert access.is_closed


def test_links_and_browsers_are_bounded(run):
    """The oldest makes room; nobody fills the memory by asking for links."""
    access = Access(settings_with(links_count=2, sessions_count=2), ManualClock())
    links = [access.new_link("ana", "view")[0] for _ in range(3)]
    with pytest.raises(Refusal):
        access.log_in(links[0])
    cookies = [access.log_in(links[1])[0], access.log_in(links[2])[0]]
    cookies.append(access.log_in(access.new_link("ana", "view")[0])[0])
    assert [access.of_cookie(one) is not None for one in cookies] == [False, True, True]


def test_nothing_of_a_secret_is_kept():
    """Links and cookies are known by their digests only."""
    access = Access(AdminSettings(), ManualClock())
    secret, _ = access.new_link("ana", "view")
    cookie, _ = access.log_in(secret)
    kept = repr((access._links, access._browsers))
    assert secret not in kept
    assert cookie not in kept


def test_behind_a_proxy_the_cookie_wants_tls():
    """The origin of the proxy is configured; any other https page is somebody else's."""
    access = Access(settings_with(origins=("https://sojourn.example.net",)), ManualClock())
    access.check_origin("POST", {"Origin": "https://sojourn.example.net", "Host": "127.0.0.1:9300"})
    assert access.wants_secure("https://sojourn.example.net")
    assert not access.wants_secure("https://other.example.net")


def test_bad_tokens_are_problems_of_the_configuration():
    """Too short, twice the same, twice the same name."""

    def token(name, value="0123456789abcdef"):
        return TokenSettings(name=name, token=Secret(value))

    assert [key for key, _, _ in token("a", "short").problems()] == ["token"]
    assert [key for key, _, _ in AdminSettings(tokens=(token("a"), token("b"))).problems()] == ["tokens"]
    two = (token("a"), token("a", "fedcba9876543210"))
    assert [found for _, found, _ in AdminSettings(tokens=two).problems()] == ["2 tokens named 'a'"]
    assert not list(AdminSettings(address="0.0.0.0:9300", tokens=(token("a"),)).problems())
