"""The REST interface, by a real client over the core's listener: specification 5.3 and the paths of the original."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import pytest
import websockets
from aiohttp import web
from core_lab import until
from exchange_rest_lab import ADMIN, bearer, rest
from http_lab import raw

from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.exchange.http_config import HttpSettings
from sojourn.gateways.exchange.idempotency import REPLAYED, Once
from sojourn.gateways.exchange.memory_bus import MemoryHub
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.problems import TYPE_PREFIX, Kind, Refusal
from sojourn.gateways.exchange.rest_types import Progress
from sojourn.gateways.exchange.routes import OPERATIONS
from sojourn.gateways.exchange.rows import StoredResponse
from sojourn.gateways.exchange.tickets import Grant, TicketDesk
from sojourn.web.body import field_error
from sojourn.web.server import protocol_of

ORDER = {"symbol": "AAPL", "side": "buy", "quantity": 10, "type": "limit", "price": "175.25"}
NO_SESSION = "019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6071"


class Client:
    """A user's client."""

    def __init__(self, lab, http, **who):
        self.lab, self.http, self.headers = lab, http, bearer(**who)

    async def ask(self, method, path, body=None, **headers):
        """Return status, headers and the answer's value; problems are checked for their form."""
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        async with self.http.request(method, self.lab.url + path, data=data, headers=headers) as answer:
            text = await answer.read()
            value = json.loads(text) if text and "json" in answer.content_type else text
            if answer.status >= 400 and answer.status != 503:
                assert answer.content_type == "application/problem+json"
            if answer.content_type == "application/problem+json":
                assert value["status"] == answer.status
                assert value["type"].startswith(TYPE_PREFIX)
                assert value.get("request_id") == answer.headers.get("X-Request-Id")
            return answer.status, answer.headers, value

    async def session(self):
        """Return the path of a new session."""
        status, headers, _ = await self.ask("POST", "/v1/sessions", {"device": "laptop-1"})
        assert status in {200, 201}
        return headers["Location"]


@contextlib.asynccontextmanager
async def clients(*users, **options):
    """Run the interface; yields it and a client per user."""
    async with rest(**options) as lab, aiohttp.ClientSession() as http:
        yield (
            lab,
            *(Client(lab, http, **({"subject": user} if isinstance(user, str) else user)) for user in users),
        )


def name_of(problem):
    return problem["type"].removeprefix(TYPE_PREFIX)


def test_a_session_is_made_once_per_device(run):
    """Specification 5.3: 201 for a new one, 200 for the same device, 409 for another."""

    async def go():
        async with clients("ana") as (lab, ana):
            status, headers, made = await ana.ask(
                "POST", "/v1/sessions", {"device": "laptop-1"}, User_Agent="x" * 300
            )
            assert status == 201
            assert headers["Location"] == f"/v1/sessions/{made['id']}"
            assert made["subject"] == "ana"
            status, _, again = await ana.ask("POST", "/v1/sessions", {"device": "laptop-1"})
            assert (status, again["id"]) == (200, made["id"])
            status, _, problem = await ana.ask("POST", "/v1/sessions", {"device": "phone"})
            assert (status, name_of(problem)) == (409, "device_mismatch")
            assert lab.service.callers[0].address == "127.0.0.1"
            assert len(lab.service.callers[0].user_agent) == 256

    run(go())


def test_a_session_of_somebody_else_does_not_exist(run):
    """No path tells another user's session from none, whatever the method."""

    async def go():
        async with clients("ana", "bob") as (_, ana, bob):
            path = await ana.session()
            for method, tail, body in (
                ("GET", "", None),
                ("DELETE", "", None),
                ("POST", "/ticket", None),
                ("PUT", "/simulator", {"desired": "running"}),
                ("GET", "/simulator", None),
                ("GET", "/simulator/progress", None),
                ("POST", "/orders", ORDER),
                ("GET", "/orders", None),
                ("GET", "/orders/1", None),
                ("PUT", "/orders/1", {"quantity": 1, "price": "1"}),
                ("DELETE", "/orders/1", None),
                ("GET", "/events", None),
                ("GET", "/snapshot", None),
            ):
                for place in (path, f"/v1/sessions/{NO_SESSION}", "/v1/sessions/x", "/v1/sessions/%00"):
                    key = f'"{place}"'
                    headers = {"Idempotency_Key": key} if tail == "/orders" and body else {}
                    status, _, problem = await bob.ask(method, place + tail, body, **headers)
                    assert (status, name_of(problem)) == (404, "not_found"), (method, place, tail)
                    assert problem.pop("request_id")
                    assert problem == {
                        "type": f"{TYPE_PREFIX}not_found",
                        "title": Kind.NOT_FOUND.title,
                        "status": 404,
                        "hint": Kind.NOT_FOUND.hint,
                    }
            assert (await ana.ask("GET", path))[0] == 200

    run(go())


def test_sessions_come_page_by_page(run):
    """``next`` of a page is ``before`` of the one behind it."""

    async def go():
        async with clients("ana") as (_, ana):
            paths = []
            for _ in range(3):
                paths.append(await ana.session())
                assert (await ana.ask("DELETE", paths[-1]))[0] == 204
            status, _, page = await ana.ask("GET", "/v1/sessions?limit=2")
            assert status == 200
            _, _, rest_of = await ana.ask("GET", f"/v1/sessions?limit=2&before={page['next']}")
            found = [f"/v1/sessions/{one['id']}" for one in (*page["sessions"], *rest_of["sessions"])]
            assert found == paths[::-1]
            assert rest_of["next"] == ""

    run(go())


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "limit=-1", "limit=1.0", "limit=", "limit=1&limit=2", "lim=1", "limit=٣",
     "limit=" + "9" * 5000, "before=x", "before=%00"],
)  # fmt: skip
def test_a_query_is_taken_exactly(run, query):
    """Unknown, repeated and impossible parameters are named, never guessed."""

    async def go():
        async with clients("ana") as (_, ana):
            status, _, problem = await ana.ask("GET", f"/v1/sessions?{query}")
            if len(query) > 4000:
                assert status == 431
                return
            assert (status, name_of(problem)) == (422, "invalid")
            assert problem["errors"][0]["field"].startswith("query")

    run(go())


def test_a_get_starts_nothing(run):
    """Section 1.9 item 7: in the original GET /api/simulators started one."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            for operation in OPERATIONS:
                if operation.method == "GET":
                    place = operation.path.replace("{id}", path.rpartition("/")[2]).replace("{order}", "1")
                    await ana.ask("GET", place)
            assert lab.service.started == 0

    run(go())


def test_a_simulator_is_wanted_and_not_commanded(run):
    """Specification 5.3: PUT of a desired state is idempotent; 202 with Location when something changes."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            assert (await ana.ask("GET", path + "/simulator"))[0] == 404
            spy = {"desired": "running", "spec": {"replay_file": "/etc/passwd"}}
            status, _, problem = await ana.ask("PUT", path + "/simulator", spy)
            assert (status, problem["errors"][0]["field"]) == (422, "$.spec.replay_file")
            wish = {"desired": "running", "spec": {"seed": 7, "cash": "5000"}}
            status, headers, simulator = await ana.ask("PUT", path + "/simulator", wish)
            assert (status, headers["Location"]) == (202, path + "/simulator")
            status, _, again = await ana.ask("PUT", path + "/simulator", wish)
            assert (status, again["id"]) == (200, simulator["id"])
            assert lab.service.started == 1
            assert (await ana.ask("GET", path + "/simulator"))[2]["state"] == "starting"
            assert (await ana.ask("DELETE", path))[0] == 204
            status, _, problem = await ana.ask("PUT", path + "/simulator", {"desired": "stopped"})
            assert (status, name_of(problem)) == (410, "session_ended")

    run(go())


BAD_ORDERS = [
    (b'{"quantity": NaN}', "bad_json", None),
    (b'{"quantity": Infinity}', "bad_json", None),
    (b"{", "bad_json", None),
    (b"", "bad_json", None),
    (b"\xff\xfe", "bad_json", None),
    (b"[" * 60_000, "bad_json", None),
    (b'{"a":' * 40 + b"1" + b"}" * 40, "bad_json", None),
    (b"[]", "invalid", "$"),
    ({**ORDER, "quantity": 0}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": -1}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": 1.0}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": 1.5}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": True}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": "10"}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": None}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": 10**9 + 1}, "invalid", "$.quantity"),
    ({**ORDER, "quantity": 10**300}, "invalid", "$.quantity"),
    (b'{"symbol":"AAPL","side":"buy","quantity":1e999}', "invalid", "$.quantity"),
    ({**ORDER, "price": 175.25}, "invalid", "$.price"),
    ({**ORDER, "price": "175.1234567"}, "invalid", "$.price"),
    ({**ORDER, "price": "-1"}, "invalid", "$.price"),
    ({**ORDER, "price": "NaN"}, "invalid", "$.price"),
    ({**ORDER, "price": "1e5"}, "invalid", "$.price"),
    ({**ORDER, "price": "0.000"}, "invalid", "$.price"),
    ({**ORDER, "price": ""}, "invalid", "$.price"),
    ({**ORDER, "price": "1\n"}, "invalid", "$.price"),
    ({**ORDER, "price": "\u0661"}, "invalid", "$.price"),
    ({**ORDER, "price": None}, "invalid", "$.price"),
    ({**ORDER, "type": "market"}, "invalid", "$.price"),
    ({**ORDER, "side": "SeCrEt"}, "invalid", "$.side"),
    ({**ORDER, "symbol": "aapl"}, "invalid", "$.symbol"),
    ({**ORDER, "symbol": "A" * 13}, "invalid", "$.symbol"),
    ({**ORDER, "SeCrEt!": 1}, "invalid", "$"),
    ({"symbol": "AAPL", "side": "buy"}, "invalid", "$"),
]


@pytest.mark.parametrize(("body", "name", "field"), BAD_ORDERS)
def test_a_wrong_field_is_named_and_not_repeated(run, body, name, field):
    """Money and quantities are taken exactly or not at all; what was sent does not come back."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            status, _, problem = await ana.ask("POST", path + "/orders", body, Idempotency_Key='"k"')
            assert (status, name_of(problem)) == (400 if name == "bad_json" else 422, name)
            assert [error["field"] for error in problem.get("errors", [])] == ([field] if field else [])
            assert "SeCrEt" not in str(problem)
            assert not lab.service.orders
            assert not lab.gateway.requests.kept

    run(go())


def test_names_of_the_clients_own_keys_are_not_repeated():
    """A place inside a mapping is told without the key."""
    assert field_error("Expected `str`, got `int` - at `$.attributes[...]`").field == "$.attributes[...]"
    assert field_error("Expected `str`, got `int` - at `$.rows[3].x`").field == "$.rows[3].x"
    for name in ("1234", "a b", "x" * 65, "pin\n"):
        told = field_error(f"Object contains unknown field `{name}` - at `$.x`")
        assert (told.field, told.problem) == ("$.x", "Object contains unknown field")


def test_an_unknown_field_is_named_where_its_name_is_plain():
    """Who misspells a field should not have to guess which one it was."""
    assert (
        field_error("Object contains unknown field `pin_code` - at `$.x`").problem
        == "Object contains unknown field pin_code"
    )


def test_an_order_goes_its_way(run):
    """Place, see, change, take back, list."""

    async def go():
        async with clients("ana") as (_, ana):
            path = await ana.session()
            status, headers, order = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"key-1"')
            assert (status, order["request"], order["price"]) == (201, "key-1", "175.25")
            place = headers["Location"]
            assert (await ana.ask("GET", place))[2] == order
            change = {"quantity": 5, "price": "170"}
            assert (await ana.ask("PUT", place, change))[2]["remaining"] == 5
            assert (await ana.ask("DELETE", place))[2]["status"] == "canceled"
            assert len((await ana.ask("GET", path + "/orders"))[2]["orders"]) == 1
            for bad in ("0x1", "99", "9" * 400, "-1", "%D9%A3"):
                assert (await ana.ask("GET", f"{path}/orders/{bad}"))[0] == 404
            refused = {**ORDER, "symbol": "NONE"}
            status, _, problem = await ana.ask("POST", path + "/orders", refused, Idempotency_Key='"key-2"')
            assert (status, problem["reason"]) == (422, "unknown_symbol")

    run(go())


def test_an_order_with_the_same_key_is_one_order(run):
    """Idempotency-Key: the first answer again; another request under the key is refused; keys belong to a subject."""

    async def go():
        async with clients("ana", "bob") as (lab, ana, bob):
            path = await ana.session()
            assert (await ana.ask("POST", path + "/orders", ORDER))[2]["type"].endswith("no_idempotency_key")
            first = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"same"')
            again = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"same"')
            assert (again[0], again[2]) == (201, first[2])
            assert again[1]["Idempotency-Replayed"] == "true"
            assert again[1]["Location"] == first[1]["Location"]
            assert len(lab.service.orders) == 1
            other = {**ORDER, "quantity": 11}
            status, _, problem = await ana.ask("POST", path + "/orders", other, Idempotency_Key='"same"')
            assert (status, name_of(problem)) == (422, "idempotency_key_reused")
            bobs = await bob.session()
            assert (await bob.ask("POST", bobs + "/orders", ORDER, Idempotency_Key='"same"'))[0] == 201
            for bad in ('""', '"a', "a b", '"' + "x" * 256 + '"', '"\u00e4"', '"a"b"', ""):
                status, _, problem = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key=bad)
                assert (status, name_of(problem)) == (400, "bad_idempotency_key"), bad

    run(go())


def test_a_key_that_is_being_worked_on_says_so(run):
    """409 with Retry-After while the first request is under way; its answer afterwards."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            lab.service.gate.clear()
            async with asyncio.TaskGroup() as group:
                first = group.create_task(ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"'))
                await until(lambda: lab.gateway.requests.kept)
                status, headers, problem = await ana.ask(
                    "POST", path + "/orders", ORDER, Idempotency_Key='"k"'
                )
                assert (status, name_of(problem)) == (409, "in_progress")
                assert int(headers["Retry-After"]) >= 1
                lab.service.gate.set()
            assert first.result()[0] == 201
            assert (await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"'))[
                2
            ] == first.result()[2]

    run(go())


@pytest.mark.parametrize(
    ("trouble", "status", "kept"),
    [
        (Refusal(Kind.ORDER_REFUSED, reason="bad_price"), 422, 1),
        (Refusal(Kind.OUTCOME_UNKNOWN), 504, 0),
        (BackendUnavailable("db-7.internal", 1.0, "a secret"), 503, 0),
        (LimitExceeded("orders of ana", 3, 2), 429, 0),
        (RuntimeError("a secret"), 500, 0),
    ],
)
def test_only_what_is_final_is_kept_under_a_key(run, trouble, status, kept):
    """A repeat of what may work the next time is carried out; nothing internal is told."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            lab.service.trouble = trouble
            found, headers, problem = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"')
            assert found == status
            assert "secret" not in str(problem)
            assert "internal" not in str(problem).replace("problem:internal", "")
            assert ("Retry-After" in headers) == (status in {429, 503})
            assert len(lab.gateway.requests.kept) == kept
            again = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"')
            assert again[0] == (status if kept else 201)
            if kept:
                assert name_of(again[2]) == name_of(problem)
            assert len(lab.gateway.failures) == (status == 500)

    run(go())


def test_keys_and_tickets_fit_what_the_gateway_has_for_them(run):
    """storage.RequestTable and bus.Tickets, as the embedded gateway has them in memory."""

    async def go():
        store, calls = MemoryStore(), []
        await store.start()
        once = Once(store.requests, 30.0)

        async def work():
            calls.append(1)
            if len(calls) == 1:
                raise Refusal(Kind.UNAVAILABLE)
            return StoredResponse(201, b"{}", {})

        with pytest.raises(Refusal):
            await once.run("ana", "k", b"d", work)
        assert (await once.run("ana", "k", b"d", work)).status == 201
        again = await once.run("ana", "k", b"d", work)
        assert (again.status, again.headers) == (201, {REPLAYED: "true"})
        assert len(calls) == 2
        with pytest.raises(Refusal) as caught:
            await once.run("ana", "k", b"other", work)
        assert caught.value.kind is Kind.KEY_REUSED
        await store.stop()
        desk = TicketDesk(MemoryHub().join("pod-1"), 30.0)
        grant = Grant("session-1", Principal("ana", frozenset({"exchange"}), 1.0, "t"))
        assert await desk.take(await desk.give(grant.principal, grant.session)) == grant

    run(go())


def test_an_order_whose_client_is_gone_is_carried_out(run):
    """The answer is kept for the repeat."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            lab.service.gate.clear()
            client = await raw(lab.server)
            body = json.dumps(ORDER)
            client.send(
                f"POST {path}/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f'Idempotency-Key: "k"\r\nAuthorization: {ana.headers["Authorization"]}\r\n'
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            )
            await until(lambda: lab.gateway.requests.kept)
            client.reset()
            await until(lambda: lab.gateway.http.orphans_count)
            lab.service.gate.set()
            await until(lambda: not lab.gateway.http.orphans_count)
            status, headers, _ = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"')
            assert (status, headers["Idempotency-Replayed"]) == (201, "true")
            assert len(lab.service.orders) == 1

    run(go())


def test_work_that_takes_too_long_is_given_up(run):
    """request_timeout_s: nobody knows whether an order was placed; the key makes the repeat safe."""

    async def go():
        async with clients("ana", http=HttpSettings(request_timeout_s=0.05)) as (lab, ana):
            path = await ana.session()
            lab.service.gate.clear()
            status, _, problem = await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"')
            assert (status, name_of(problem)) == (504, "outcome_unknown")
            assert lab.gateway.requests.abandoned == 1
            lab.service.gate.set()
            assert (await ana.ask("POST", path + "/orders", ORDER, Idempotency_Key='"k"'))[0] == 201
            lab.service.trouble = TimeoutError("of another wait")
            assert (await ana.ask("GET", path))[0] == 500

    run(go())


def test_events_are_replayed_by_rest_too(run):
    """Specification 5.3: the log behind an offset; what is not kept any more is 410 and a snapshot."""

    async def go():
        async with clients("ana") as (_, ana):
            path = await ana.session()
            _, _, page = await ana.ask("GET", path + "/events?after=1&limit=1")
            assert (page["epoch"], [event["o"] for event in page["events"]], page["last"]) == (1, [2], 3)
            status, _, problem = await ana.ask("GET", path + "/events?after=1&epoch=9")
            assert (status, name_of(problem)) == (410, "events_gone")
            assert (await ana.ask("GET", path + "/snapshot"))[2]["events"] == 3

    run(go())


def test_progress_is_a_stream_of_events(run):
    """Specification 5.3: each step as it comes, then the end of the stream."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            status, headers, text = await ana.ask("GET", path + "/simulator/progress")
            assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
            events = [
                block.split(b"\n")[1] for block in text.split(b"\n\n") if block.startswith(b"event: progress")
            ]
            assert [json.loads(line.removeprefix(b"data: "))["state"] for line in events] == [
                "starting",
                "running",
            ]
            assert lab.service.closed_progress == 1

    run(go())


@pytest.mark.parametrize(
    ("trouble", "name"),
    [(Refusal(Kind.ENDED), "session_ended"), (BackendUnavailable("x", 0, "secret"), "unavailable")],
)
def test_what_goes_wrong_in_a_stream_is_an_event(run, trouble, name):
    """The status is sent already; the problem comes as the last event."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            lab.service.steps = [Progress(state="starting"), trouble]
            _, _, text = await ana.ask("GET", path + "/simulator/progress")
            last = text.split(b"\n\n")[-2]
            assert last.startswith(b"event: problem\n")
            assert name in last.decode()
            assert b"secret" not in last

    run(go())


def test_a_silent_stream_shows_that_it_lives_and_ends_with_its_client(run):
    """A comment every keep_alive_comment_s; the service is not fed for nobody."""

    async def go():
        async with clients("ana", http=HttpSettings(keep_alive_comment_s=0.01)) as (lab, ana):
            path = await ana.session()
            lab.service.gate.clear()
            async with ana.http.get(lab.url + path + "/simulator/progress", headers=ana.headers) as answer:
                text = b""
                while text.count(b": still here") < 2:
                    text += await answer.content.readany()
            await until(lambda: lab.service.closed_progress == 1)

    run(go())


def test_a_drain_ends_streams_and_says_so(run):
    """Answers while draining carry Connection: close; a stream ends at its next comment."""

    async def go():
        async with clients("ana", http=HttpSettings(keep_alive_comment_s=0.01)) as (lab, ana):
            path = await ana.session()
            lab.service.gate.clear()
            async with ana.http.get(lab.url + path + "/simulator/progress", headers=ana.headers) as answer:
                await answer.content.readany()
                await lab.server.stop(timeout_s=20)
                await answer.content.read()
            assert lab.service.closed_progress == 1

    run(go())


def test_a_ticket_is_for_the_holder_of_a_live_session(run):
    """Specification 5.3: single use, 30 s, no JWT in URLs."""

    async def go():
        async with clients("ana") as (lab, ana):
            path = await ana.session()
            status, _, ticket = await ana.ask("POST", path + "/ticket")
            assert (status, ticket["expires_in_s"], ticket["path"]) == (201, 30.0, "/v1/ws")
            grant = await lab.gateway.desk.take(ticket["ticket"])
            assert grant.session == path.rpartition("/")[2]
            assert grant.principal.subject == "ana"
            await ana.ask("DELETE", path)
            assert (await ana.ask("POST", path + "/ticket"))[0] == 410
            lab.gateway.tickets.is_away = True
            other = await ana.session()
            status, headers, _ = await ana.ask("POST", other + "/ticket")
            assert (status, "Retry-After" in headers) == (503, True)

    run(go())


def test_who_may_do_what(run):
    """Open paths need nothing, users their scope, administrators theirs; 401 says who are you, 403 says not for you."""

    async def go():
        nobody = {"subject": "eve", "scope": "other"}
        admin = {"subject": "root", "scope": ADMIN}
        async with clients("ana", nobody, admin) as (_, ana, eve, root):
            stranger = Client(ana.lab, ana.http)
            stranger.headers = {}
            for operation in OPERATIONS:
                place = operation.path.replace("{id}", NO_SESSION).replace("{order}", "1")
                wanted = {"open": (200, 200, 200), "user": (401, 403, None), "admin": (401, 403, 403)}[
                    operation.access
                ]
                for client, status in zip((stranger, eve, ana), wanted, strict=True):
                    found = (await client.ask(operation.method, place))[0]
                    assert found == status or (status is None and found not in {401, 403}), operation
                if operation.access == "admin":
                    assert (await root.ask(operation.method, place))[0] not in {401, 403}

    run(go())


def test_administrators_see_and_end_what_is_not_theirs(run):
    """/v1/admin: sessions of everybody, pods, drain, disconnect."""

    async def go():
        async with clients("ana", {"subject": "root", "scope": ADMIN}) as (_, ana, root):
            path = await ana.session()
            _, _, page = await root.ask("GET", "/v1/admin/sessions?subject=ana&state=new")
            (found,) = page["sessions"]
            assert (await root.ask("GET", f"/v1/admin/sessions/{found['id']}"))[2] == found
            assert (await root.ask("DELETE", f"/v1/admin/sessions/{found['id']}"))[0] == 204
            assert (await ana.ask("GET", path))[2]["ended_reason"] == "admin"
            assert (await root.ask("GET", "/v1/admin/sessions?state=x"))[0] == 422
            assert (await root.ask("GET", "/v1/admin/pods"))[2]["pods"][0]["name"] == "pod-1"
            assert (await root.ask("POST", "/v1/admin/drain", {}))[0] == 202
            assert (await root.ask("POST", "/v1/admin/drain", {"pod": "x"}))[0] == 404
            assert (await root.ask("POST", "/v1/admin/disconnect", {"subject": "ana"}))[0] == 200
            for bad in ({}, {"subject": "ana", "session": found["id"]}, {"session": "x"}):
                assert (await root.ask("POST", "/v1/admin/disconnect", bad))[0] == 422
            assert (await root.ask("GET", "/v1/admin/simulators"))[2]["simulators"] == []
            assert (await root.ask("DELETE", f"/v1/admin/simulators/{NO_SESSION}"))[0] == 404

    run(go())


def test_an_issuer_that_is_away_makes_nobody_unready(run):
    """Specification 5.3: /readyz says degraded; only the pod's own parts make it unready."""

    async def go():
        async with clients("ana") as (lab, ana):
            assert (await ana.ask("GET", "/readyz"))[2] == {
                "ready": True,
                "parts": {"database": "ok", "auth": "ok"},
                "pod": "pod-1",
            }
            lab.gateway.auth._local._keys.append(_Away())
            status, _, value = await ana.ask("GET", "/readyz")
            assert (status, value["parts"]["auth"]) == (200, "degraded")
            lab.service.is_ready = False
            assert (await ana.ask("GET", "/readyz"))[0] == 503
            status, _, value = await ana.ask("GET", "/readiness")
            assert (status, value["status"]) == (503, "NOT READY")
            assert (await ana.ask("GET", "/health"))[2]["status"] == "UP"
            assert (await ana.ask("GET", "/healthz"))[0] == 200

    run(go())


class _Away:
    """A source of keys whose last fetch failed."""

    version = 0
    failure = "status 500"

    def freshen(self):
        """Nothing is fetched."""


def test_the_originals_clients_find_their_paths(run):
    """The seed's /api/sessions and /api/simulators; the session's id is returned, as its README promises."""

    async def go():
        async with clients("ana") as (lab, ana):
            assert (await ana.ask("GET", "/api/simulators"))[0] == 404
            status, _, made = await ana.ask("POST", "/api/sessions", {"deviceId": "d"})
            assert (status, made["isNew"]) == (201, True)
            assert (await ana.ask("POST", "/api/sessions", {"deviceId": "d"}))[2]["isNew"] is False
            session = made["sessionId"]
            assert (await ana.ask("GET", f"/api/sessions/{session}"))[2]["id"] == session
            assert len((await ana.ask("GET", "/api/sessions"))[2]["sessions"]) == 1
            status, _, simulator = await ana.ask("POST", "/api/simulators")
            assert (status, simulator["status"], simulator["sessionId"]) == (202, "STARTING", session)
            assert (await ana.ask("POST", "/api/simulators"))[0] == 200
            assert (await ana.ask("GET", "/api/simulators"))[2]["simulatorId"] == simulator["simulatorId"]
            assert (await ana.ask("DELETE", "/api/simulators"))[2]["status"] == "STOPPED"
            assert lab.service.started == 1
            assert (await ana.ask("DELETE", "/api/sessions", {"sessionId": session}))[2] == {"success": True}
            assert (await ana.ask("DELETE", f"/api/sessions/{session}"))[0] == 200
            assert (await ana.ask("GET", "/api/simulators"))[0] == 404
            assert (await ana.ask("GET", "/api/processing/toggle"))[0] == 404

    run(go())


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/json; charset=latin-1"},
        {"Content_Encoding": "gzip"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
def test_only_plain_json_is_taken(run, headers):
    """A form of another page's making is no request; a compressed body could be a bomb."""

    async def go():
        async with clients("ana") as (_, ana):
            status, _, problem = await ana.ask("POST", "/v1/sessions", {"device": "d"}, **headers)
            assert (status, name_of(problem)) == (415, "bad_media_type")

    run(go())


def test_a_body_that_does_not_come_is_not_waited_for(run):
    """body_timeout_s: 408, and the connection is free again."""

    async def go():
        async with clients("ana", http=HttpSettings(body_timeout_s=0.05, linger_timeout_s=0)) as (lab, ana):
            client = await raw(lab.server)
            client.send(
                "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Authorization: {ana.headers['Authorization']}\r\nContent-Length: 20\r\n\r\n{{"
            )
            status, _, body = await client.answer()
            assert status == 408
            assert name_of(json.loads(body)) == "too_slow"
            client.close()

    run(go())


def test_a_body_that_is_too_long_is_refused(run):
    """413 as a problem, not as the HTTP library's own text."""

    async def go():
        async with clients("ana", http=HttpSettings(body_limit_bytes=1024)) as (_, ana):
            status, _, problem = await ana.ask("POST", "/v1/sessions", b" " * 5000)
            assert (status, name_of(problem)) == (413, "too_large")

    run(go())


def test_a_token_in_a_url_is_refused_and_told_nowhere(run):
    """RFC 6750 section 5.3: neither the answer nor an event nor a metric has it."""

    async def go():
        async with clients("ana") as (lab, ana):
            status, _, problem = await ana.ask("GET", "/v1/sessions?token=SeCrEt")
            assert (status, name_of(problem)) == (400, "token_in_url")
            lab.server.events.flush()
            told = str([event.fields() for event in lab.server.events.recent]) + str(
                list(lab.gateway.counters())
            )
            assert "SeCrEt" not in told + str(problem)

    run(go())


class Sockets:
    """The WebSocket of a gateway, as far as its handshake."""

    def __init__(self):
        self.gateway = None

    async def open(self, request):
        """Let in who may come in, before the upgrade."""
        grant = await self.gateway.auth.authenticate_handshake(
            request, self.gateway.desk, ("https://desk.test",)
        )
        socket = web.WebSocketResponse(protocols=("session.v1.json",))
        await socket.prepare(request)
        protocol_of(request).end_visit()
        await socket.send_json([grant.session, grant.principal.subject])
        await socket.close()
        return socket


def test_a_web_page_opens_its_websocket_with_a_ticket(run):
    """Specification 5.4: a ticket or a header, refused before the upgrade, by origin too; no ticket is repeated."""

    async def go():
        sockets = Sockets()
        async with clients("ana", more=[web.get("/v1/ws", sockets.open)]) as (lab, ana):
            sockets.gateway = lab.gateway
            path = await ana.session()
            url = lab.url.replace("http", "ws") + "/v1/ws"

            async def ticket():
                return (await ana.ask("POST", path + "/ticket"))[2]["ticket"]

            async def opened(where=url, protocols=("session.v1.json",), **options):
                async with websockets.connect(where, subprotocols=protocols, **options) as client:
                    assert client.subprotocol == "session.v1.json"
                    return json.loads(await client.recv())

            once = await ticket()
            hidden = ("session.v1.json", f"ticket.{once}")
            assert await opened(protocols=hidden, origin="https://desk.test") == [
                path.rpartition("/")[2],
                "ana",
            ]
            assert (await opened(f"{url}?ticket={await ticket()}"))[1] == "ana"
            assert await opened(additional_headers=ana.headers) == ["", "ana"]
            for options, status in (
                ({"protocols": hidden}, 401),
                ({}, 401),
                ({"origin": "https://evil.test", "additional_headers": ana.headers}, 403),
                ({"where": f"{url}?token=abc"}, 400),
            ):
                with pytest.raises(websockets.InvalidStatus) as caught:
                    await opened(**options)
                assert caught.value.response.status_code == status
                assert caught.value.response.headers["Content-Type"] == "application/problem+json"
                assert once.encode() not in caught.value.response.body

    run(go())
