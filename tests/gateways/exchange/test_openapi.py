"""The OpenAPI document: complete, valid, and what the server does; schemathesis tries to prove the contrary."""

from __future__ import annotations

import asyncio
import json
import threading

import aiohttp
import jsonschema_rs
import pytest
import requests
import schemathesis
from exchange_rest_lab import ADMIN, MemoryService, bearer, rest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.generation import GenerationMode

from sojourn.gateways.exchange.http_config import HttpSettings, RateSettings
from sojourn.gateways.exchange.openapi import INTERFACE, document
from sojourn.gateways.exchange.problems import TABLE, Kind
from sojourn.gateways.exchange.routes import OPERATIONS
from sojourn.web.openapi import description, refusals_of


def test_every_operation_is_described_once():
    """One table: what is served is what is described."""
    paths = description(INTERFACE)["paths"]
    assert sum(len(methods) for methods in paths.values()) == len(OPERATIONS)
    ids = [one["operationId"] for methods in paths.values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_operation_documents_how_it_is_refused():
    """Each status that a route may answer with has a schema."""
    for operation in OPERATIONS:
        responses = description(INTERFACE)["paths"][operation.path][operation.method.lower()]["responses"]
        assert {str(kind.status) for kind in refusals_of(operation)} <= set(responses)
        assert {"400", "429", "431", "500", "503"} <= set(responses)
        if operation.access != "open":
            assert {"401", "403"} <= set(responses)
    kinds = {kind for operation in OPERATIONS for kind in refusals_of(operation)}
    # The rest belongs to what is no operation: other paths and methods, the WebSocket's handshake, lines too long.
    assert set(TABLE.values()) - kinds >= {Kind.BAD_METHOD}


def test_old_paths_are_told_to_be_old():
    """Aliases are deprecated and name what they stand for; a GET of them starts nothing."""
    for operation in OPERATIONS:
        described = description(INTERFACE)["paths"][operation.path][operation.method.lower()]
        assert described.get("deprecated", False) == bool(operation.alias_of)


def test_the_document_is_served_as_it_is(run):
    """GET /openapi.json needs no token; metrics stay with the admin API of the daemon."""

    async def go():
        async with rest() as lab, aiohttp.ClientSession() as http:
            async with http.get(lab.url + "/openapi.json") as answer:
                assert await answer.read() == document()
                assert answer.content_type == "application/json"
            async with http.get(lab.url + "/metrics") as answer:
                assert answer.status == 404

    run(go())


def test_the_schemas_are_schemas():
    """OpenAPI 3.1: every component is a JSON Schema of draft 2020-12."""
    for name, schema in description(INTERFACE)["components"]["schemas"].items():
        whole = {**schema, "components": {"schemas": description(INTERFACE)["components"]["schemas"]}}
        assert jsonschema_rs.validator_for(json.loads(json.dumps(whole))), name


EXAMPLES_COUNT = 8
UNSAID = {
    "PUT /v1/sessions/{id}/simulator",
    "POST /v1/sessions/{id}/orders",
    "PUT /v1/sessions/{id}/orders/{order}",
    "POST /v1/admin/disconnect",
}
"""Operations with a rule that no schema says: about two fields together, or that 5.0 is no integer of ours."""


def _can_be_wrong(operation):
    """Say whether there is anything in a request that could not fit."""
    return bool(operation.definition.raw["parameters"] or "requestBody" in operation.definition.raw)


def _prepare(served, session, headers):
    """Return the parameters of paths under which there is something: a session with a simulator and an order."""

    def ask(method, path, body):
        key = {"Idempotency-Key": '"once"'} if body else {}
        answer = session.request(method, served.url + path, json=body, headers={**headers, **key}, timeout=10)
        assert answer.status_code < 400, answer.text
        return answer.json()

    for one in ask("GET", "/v1/sessions", None)["sessions"]:
        session.delete(f"{served.url}/v1/sessions/{one['id']}", headers=headers, timeout=10)
    made = ask("POST", "/v1/sessions", {"device": "laptop"})
    ask("PUT", f"/v1/sessions/{made['id']}/simulator", {"desired": "running"})
    order = {"symbol": "AAPL", "side": "buy", "quantity": 1, "price": "1"}
    return {"id": made["id"], "order": ask("POST", f"/v1/sessions/{made['id']}/orders", order)["order"]}


class Served:
    """The interface in a thread of its own, as schemathesis calls synchronously."""

    def __enter__(self):
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._started.wait(20)
        return self

    async def _main(self):
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        unlimited = RateSettings(requests_per_s=0.0)
        settings = HttpSettings(per_subject=unlimited, per_address=unlimited)
        async with rest(http=settings, service=MemoryService()) as lab:
            self.lab, self.url = lab, lab.url
            lab.gateway.requests.forgets = True  # a key of two different requests is the client's mistake
            self._started.set()
            await self._over.wait()

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)


def _try(operation, mode, known, **call):
    """Send requests to one operation and hold each answer against the document."""

    @hypothesis_settings(
        max_examples=EXAMPLES_COUNT,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if mode == GenerationMode.POSITIVE:
            case.path_parameters.update({name: known[name] for name in case.path_parameters or ()})
        case.call_and_validate(**call)

    check()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_no_request_gets_an_answer_that_is_not_documented(mode):
    """Statuses, headers and bodies are those of the document, nothing is a 500, and what does not fit is refused."""
    with Served() as served, requests.Session() as session:
        schema = schemathesis.openapi.from_dict(description(INTERFACE))
        schema.config.update(base_url=served.url)
        positive = schema.config.checks.positive_data_acceptance
        usual = [*positive.expected_statuses, "410"]
        headers = bearer("root", ADMIN)
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode == GenerationMode.NEGATIVE and not _can_be_wrong(operation):
                continue
            positive.expected_statuses = [*usual, "422"] if operation.label in UNSAID else usual
            known = _prepare(served, session, headers)
            _try(operation, mode, known, headers=headers, timeout=10, session=session)
        assert not served.lab.gateway.failures
