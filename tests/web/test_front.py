"""What every request goes through: ids, rates, problems, CORS, headers, metrics, spans."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl

import aiohttp
import pytest
import trustme
from aiohttp import web
from core_lab import told, until
from exchange_rest_lab import bearer, rest
from http_lab import raw, serving
from prometheus_client.parser import text_string_to_metric_families

from sojourn.core.metrics import metrics_text
from sojourn.core.settings import ListenerSettings, TlsSettings
from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.exchange.problems import TABLE, Kind, Refusal
from sojourn.testing import ManualClock
from sojourn.web.config import HttpSettings, RateSettings
from sojourn.web.front import REQUEST_ID, Front, Rates, rated_address
from sojourn.web.server import protocol_of
from sojourn.web.tracing import NO_TRACER, OtelTracer

DESK = "https://desk.test"


class Room:
    """An application behind a front; ``trouble`` is what its handler raises."""

    def __init__(self, settings=None, **options):
        self.failures = []
        self.trouble = None
        self.ids = []
        self.front = Front(
            settings or HttpSettings(),
            prefix="sojourn_exchange",
            on_failure=lambda request, error: self.failures.append((request.path, error)),
            **options,
        )
        self.app = web.Application(client_max_size=100)
        self.front.install(self.app)
        self.app.add_routes(
            [
                web.get("/things/{id}", self.thing),
                web.delete("/things/{id}", self.thing),
                web.post("/things", self.thing),
                web.get("/healthz", self.thing),
                web.get("/late", self.late),
                web.get("/ws", self.socket),
                web.get("/moved", self.moved),
            ]
        )

    async def thing(self, request):
        self.ids.append(request[REQUEST_ID])
        if self.trouble is not None:
            raise self.trouble
        return web.Response(body=await request.read())

    async def late(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise ValueError("a secret")

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    async def moved(self, _request):
        raise web.HTTPFound("/elsewhere")


@contextlib.asynccontextmanager
async def room(settings=None, listener=None, **options):
    """Serve a room; yields it with its server and a client."""
    made = Room(settings, **options)
    listeners = (listener,) if listener is not None else ()
    async with serving(made.app, *listeners) as server, aiohttp.ClientSession() as http:
        made.server, made.http = server, http
        yield made


async def ask(made, path, method="GET", **options):
    """Return the answer and its body."""
    async with made.http.request(method, made.server.url + path, allow_redirects=False, **options) as answer:
        return answer, await answer.read()


def test_a_request_has_an_id_that_its_answer_names(run):
    """A client's own id is kept if it is one; anything else gets one of ours."""

    async def go():
        async with room() as made:
            answer, _ = await ask(made, "/things/1", headers={"X-Request-Id": "client-0.1_a"})
            assert answer.headers["X-Request-Id"] == "client-0.1_a" == made.ids[-1]
            for bad in ("short", "x" * 65, "a b c d e", "ä" * 10, "<script>x"):
                answer, _ = await ask(made, "/things/1", headers={"X-Request-Id": bad})
                assert answer.headers["X-Request-Id"] == made.ids[-1] != bad
            answer, body = await ask(made, "/nothing")
            assert json.loads(body)["request_id"] == answer.headers["X-Request-Id"]

    run(go())


@pytest.mark.parametrize(
    ("method", "path", "data", "wanted"),
    [
        ("GET", "/nothing", None, (404, "not_found")),
        ("PUT", "/things/1", None, (405, "bad_method")),
        ("OPTIONS", "/things/1", None, (405, "bad_method")),
        ("PROPFIND", "/things/1", None, (405, "bad_method")),
        ("POST", "/things", b"x" * 200, (413, "too_large")),
        ("GET", "/moved", None, (302, None)),
    ],
)
def test_the_librarys_own_refusals_are_problems_too(run, method, path, data, wanted):
    """RFC 9457: one form for every error, whoever noticed it; a redirect is none."""

    async def go():
        status, name = wanted
        async with room() as made:
            answer, body = await ask(made, path, method, data=data)
            assert answer.status == status
            if name is None:
                return
            assert answer.content_type == "application/problem+json"
            assert json.loads(body)["type"].endswith(f":{name}")
            if status == 405:
                assert set(answer.headers["Allow"].split(",")) == {"DELETE", "GET", "HEAD"}

    run(go())


@pytest.mark.parametrize(
    ("trouble", "status", "retry"),
    [
        (Refusal(Kind.CONFLICT, "in words of ours"), 409, None),
        (Refusal(Kind.TOO_MANY, retry_after_s=2.1), 429, "3"),
        (Refusal(Kind.DRAINING), 503, "1"),
        (BackendUnavailable("db-7.internal", 3.0, "SeCrEt"), 503, "1"),
        (ValueError("SeCrEt"), 500, None),
        (KeyError("SeCrEt"), 500, None),
        (TimeoutError("SeCrEt"), 500, None),
        (web.HTTPBadGateway(text="SeCrEt"), 500, None),
    ],
)
def test_whatever_is_raised_becomes_one_problem(run, trouble, status, retry):
    """Nothing internal leaks; 429 and 503 say when to come back; a bug is told to the operator."""

    async def go():
        async with room() as made:
            made.trouble = trouble
            answer, body = await ask(made, "/things/1")
            assert (answer.status, answer.headers.get("Retry-After")) == (status, retry)
            assert b"SeCrEt" not in body
            assert b"internal" not in body or status == 500
            known = (Refusal, BackendUnavailable, web.HTTPException)
            assert [error for _, error in made.failures] == ([] if isinstance(trouble, known) else [trouble])

    run(go())


def test_a_bug_behind_the_first_byte_cuts_the_answer(run):
    """A status cannot be taken back: the client sees an end that is none, and the operator the bug."""

    async def go():
        async with room() as made:
            with pytest.raises(aiohttp.ClientPayloadError):
                await ask(made, "/late")
            assert [str(error) for _, error in made.failures] == ["a secret"]

    run(go())


def test_a_client_that_is_gone_is_no_bug(run):
    """A write into nothing raises; it is counted as 499 and nobody is alarmed."""

    async def go():
        async with room() as made:
            made.trouble = ConnectionResetError("gone")
            assert (await ask(made, "/things/1"))[0].status == 500
            assert not made.failures
            assert not told(made.server, "http.request_failed")
            await ask(made, "/moved")
            counts = {
                tuple(row[1].values()): row[2] for row in made.front.counters() if "requests_total" in row[0]
            }
            assert counts == {("GET", "/things/{id}", "499"): 1, ("GET", "/moved", "302"): 1}

    run(go())


def test_every_problem_says_what_to_do():
    """The table is whole: each row has a status, a title and a hint; names are unique."""
    assert len(TABLE) == len([one for one in dir(Kind) if one.isupper()])
    for name, kind in TABLE.items():
        assert kind.name == name
        assert 400 <= kind.status < 600
        assert kind.title
        assert kind.hint
        assert (kind.challenge is not None) == (kind.status == 401 or name == "forbidden")


def test_headers_keep_browsers_from_guessing(run):
    """No sniffing, no caching, no framing, no referrer; which software it is is nobody's business."""

    async def go():
        async with room() as made:
            for path in ("/things/1", "/nothing"):
                answer, _ = await ask(made, path)
                headers = answer.headers
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Cache-Control"] == "no-store"
                assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
                assert headers["Referrer-Policy"] == "no-referrer"
                assert headers["Server"] == "sojourn"
                assert "Strict-Transport-Security" not in headers
                assert "Access-Control-Allow-Origin" not in headers

    run(go())


def test_tls_asks_browsers_to_stay_with_it(run, tmp_path):
    """RFC 6797: the header is sent over TLS only."""

    async def go():
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        certificate, key = tmp_path / "a.pem", tmp_path / "a.key"
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        key.touch(mode=0o600)
        key.write_bytes(leaf.private_key_pem.bytes())
        tls = TlsSettings(certificate_file=str(certificate), private_key_file=str(key))
        context = ssl.create_default_context()
        authority.configure_trust(context)
        async with room(listener=ListenerSettings(address="127.0.0.1:0", tls=tls)) as made:
            client = await raw(made.server, ssl=context)
            client.get("/things/1")
            assert "strict-transport-security" in (await client.answer())[1]
            client.close()

    run(go())


def test_web_pages_of_listed_origins_may_read_answers(run):
    """Fetch standard: the origin is named, never a wildcard, and credentials are not allowed with it."""

    async def go():
        async with room(HttpSettings(origins=(DESK,))) as made:
            for origin, allowed in ((DESK, DESK), ("https://evil.test", None), ("null", None)):
                for path in ("/things/1", "/nothing"):
                    answer, _ = await ask(made, path, headers={"Origin": origin})
                    assert answer.headers.get("Access-Control-Allow-Origin") == allowed
                    assert "Access-Control-Allow-Credentials" not in answer.headers
                    assert answer.headers["Vary"] == "Origin"

    run(go())


def test_a_preflight_says_what_the_route_allows(run):
    """Fetch standard, CORS preflight: methods of that path; another origin and another path get a problem."""

    async def go():
        async with room(HttpSettings(origins=(DESK,))) as made:
            asked = {"Origin": DESK, "Access-Control-Request-Method": "DELETE"}
            answer, body = await ask(made, "/things/1", "OPTIONS", headers=asked)
            assert (answer.status, body) == (204, b"")
            assert answer.headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD"
            assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"]
            assert answer.headers["Access-Control-Allow-Origin"] == DESK
            answer, _ = await ask(
                made, "/things/1", "OPTIONS", headers={**asked, "Origin": "https://evil.test"}
            )
            assert answer.status == 403
            answer, _ = await ask(made, "/nothing", "OPTIONS", headers=asked)
            assert answer.status == 404

    run(go())


def test_an_address_gets_as_much_as_its_bucket_holds(run):
    """Before any work: beyond the burst 429 with Retry-After; health checks are not counted."""

    async def go():
        clock = ManualClock()
        settings = HttpSettings(per_address=RateSettings(requests_per_s=0.5, burst_count=2))
        async with room(settings, clock=clock) as made:
            for wanted in (200, 200, 429):
                answer, _ = await ask(made, "/things/1")
                assert answer.status == wanted
            assert answer.headers["Retry-After"] == "2"
            assert len(made.ids) == 2
            assert (await ask(made, "/healthz"))[0].status == 200
            clock.advance(2)
            assert (await ask(made, "/things/1"))[0].status == 200

    run(go())


def test_a_subject_gets_as_much_from_everywhere(run):
    """Per subject after the token is checked; another subject on the same address has a bucket of its own."""

    async def go():
        settings = HttpSettings(per_subject=RateSettings(requests_per_s=0.001, burst_count=1))
        async with rest(http=settings) as lab, aiohttp.ClientSession() as http:
            for subject, wanted in (("ana", 200), ("ana", 429), ("bob", 200)):
                async with http.get(lab.url + "/v1/sessions", headers=bearer(subject)) as answer:
                    assert answer.status == wanted

    run(go())


def test_rates_are_bounded_in_memory():
    """The key that was not seen for longest goes; a limit of 0 counts nothing."""
    clock = ManualClock()
    rates = Rates(RateSettings(requests_per_s=1.0, burst_count=1, tracked_count=3), clock)
    for key in "abcd":
        rates.take(key)
    assert list(rates._buckets) == ["b", "c", "d"]
    with pytest.raises(Refusal):
        rates.take("b")
    assert list(rates._buckets) == ["c", "d", "b"]
    unlimited = Rates(RateSettings(requests_per_s=0.0))
    for _ in range(1000):
        unlimited.take("a")
    assert not unlimited._buckets


def test_one_customer_is_one_address():
    """A host of IPv6 has 2**64 addresses; the network that a customer gets is counted."""
    assert rated_address("192.0.2.1") == "192.0.2.1"
    assert rated_address("2001:db8::1") == rated_address("2001:db8::ffff:1") == "2001:db8::/64"
    assert rated_address("unix") == "unix"


def test_metrics_have_few_labels(run):
    """Section 1.9 item 7: routes by their template, unknown paths and methods by one word; Prometheus can read it."""

    async def go():
        async with rest() as lab, aiohttp.ClientSession() as http:
            for path in ("/healthz", "/v1/sessions/a", "/v1/sessions/b", "/x/1", "/x/2"):
                async with http.get(lab.url + path, headers=bearer()):
                    pass
            async with http.request("PROPFIND", lab.url + "/healthz"):
                pass
            families = {
                one.name: one for one in text_string_to_metric_families(metrics_text(lab.server).decode())
            }
            requests = families["sojourn_exchange_http_requests"].samples
            found = {tuple(sample.labels.values()): sample.value for sample in requests}
            assert found == {
                ("GET", "/healthz", "200"): 1,
                ("GET", "/v1/sessions/{id}", "404"): 2,
                ("GET", "unmatched", "404"): 2,
                ("other", "unmatched", "405"): 1,
            }
            buckets = families["sojourn_exchange_http_request_seconds_bucket"].samples
            assert {sample.labels["le"] for sample in buckets} >= {"0.005", "+Inf"}
            assert families["sojourn_exchange_http_requests_in_flight"].samples[0].value == 0

    run(go())


def test_an_upgrade_keeps_its_own_headers(run):
    """RFC 6455 section 4.2.2: Connection: Upgrade stays, and the id is told there too."""

    async def go():
        async with room() as made, made.http.ws_connect(made.server.url + "/ws") as socket:
            headers = socket._response.headers
            assert headers["Connection"].lower() == "upgrade"
            assert headers["X-Request-Id"]

    run(go())


def test_a_draining_server_says_so_in_its_last_answers(run):
    """RFC 9112 section 9.6: Connection: close before the end."""

    async def go():
        entered, may_go = asyncio.Event(), asyncio.Event()

        async def wait(request):
            entered.set()
            await may_go.wait()
            return web.Response(text=str(protocol_of(request).is_last))

        made = Room()
        made.app.add_routes([web.get("/wait", wait)])
        async with serving(made.app) as server:
            client = await raw(server)
            client.get("/wait")
            await entered.wait()
            async with asyncio.TaskGroup() as group:
                group.create_task(server.stop(timeout_s=10))
                (connection,) = server.manager.connections
                await until(lambda: connection.table.mode == "draining")
                may_go.set()
                _, headers, body = await client.answer()
                assert (headers["connection"], body) == ("close", b"True")
            client.close()

    run(go())


class Spans:
    """A tracer that keeps what it is told."""

    def __init__(self):
        self.told = []

    @contextlib.contextmanager
    def request(self, headers):
        self.told.append({"parent": headers.get("traceparent")})
        yield self

    def set(self, name, value):
        self.told[-1][name] = value

    def failed(self, name):
        self.told[-1]["failed"] = name


def test_a_request_is_a_span_under_its_clients(run):
    """W3C Trace Context: the parent comes from traceparent; the route is told by its template, the path is not."""

    async def go():
        spans = Spans()
        async with room(tracer=spans) as made:
            parent = f"00-{'a' * 32}-{'b' * 16}-01"
            await ask(made, "/things/1", headers={"traceparent": parent})
            made.trouble = ValueError("SeCrEt")
            await ask(made, "/things/2?x=SeCrEt")
            first, second = spans.told
            assert first["parent"] == parent
            assert (first["http.route"], first["http.response.status_code"]) == ("/things/{id}", 200)
            assert second["failed"] == "status 500"
            assert "SeCrEt" not in str(second)

    run(go())


def test_without_opentelemetry_nothing_is_traced():
    """The extra is optional: asking for it where it is missing is a problem of the configuration."""
    with NO_TRACER.request({}) as span:
        span.set("a", 1)
        span.failed("b")
    try:
        import opentelemetry.trace  # noqa: F401, PLC0415 - what the extra brings, if it is here
    except ImportError:
        with pytest.raises(ConfigError, match="otel"):
            OtelTracer("exchange")
    else:
        with OtelTracer("exchange").request({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}) as span:
            span.set("http.route", "/things/{id}")
            span.failed("status 500")
