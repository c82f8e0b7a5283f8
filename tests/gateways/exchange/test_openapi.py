"""The OpenAPI document: complete, valid, and what the server does; schemathesis tries to prove the contrary."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest
import requests
import schemathesis
from exchange_rest_lab import ADMIN, MemoryService, bearer, rest
from openapi_lab import Threaded, can_be_wrong, check_answers, check_schemas
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
    check_schemas(INTERFACE)


EXAMPLES_COUNT = 8
UNSAID = {
    "PUT /v1/sessions/{id}/simulator",
    "POST /v1/sessions/{id}/orders",
    "PUT /v1/sessions/{id}/orders/{order}",
    "POST /v1/admin/disconnect",
}
"""Operations with a rule that no schema says: about two fields together, or that 5.0 is no integer of ours."""


def _prepare(url, session, headers):
    """Return the parameters of paths under which there is something: a session with a simulator and an order."""

    def ask(method, path, body):
        key = {"Idempotency-Key": '"once"'} if body else {}
        answer = session.request(method, url + path, json=body, headers={**headers, **key}, timeout=10)
        assert answer.status_code < 400, answer.text
        return answer.json()

    for one in ask("GET", "/v1/sessions", None)["sessions"]:
        session.delete(f"{url}/v1/sessions/{one['id']}", headers=headers, timeout=10)
    made = ask("POST", "/v1/sessions", {"device": "laptop"})
    ask("PUT", f"/v1/sessions/{made['id']}/simulator", {"desired": "running"})
    order = {"symbol": "AAPL", "side": "buy", "quantity": 1, "price": "1"}
    return {"id": made["id"], "order": ask("POST", f"/v1/sessions/{made['id']}/orders", order)["order"]}


@contextlib.asynccontextmanager
async def served():
    """The interface without limits of rate."""
    unlimited = RateSettings(requests_per_s=0.0)
    settings = HttpSettings(per_subject=unlimited, per_address=unlimited)
    async with rest(http=settings, service=MemoryService()) as lab:
        lab.gateway.requests.forgets = True  # a key of two different requests is the client's mistake
        yield lab


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_no_request_gets_an_answer_that_is_not_documented(mode):
    """Statuses, headers and bodies are those of the document, nothing is a 500, and what does not fit is refused."""
    with Threaded(served) as lab, requests.Session() as session:
        schema = schemathesis.openapi.from_dict(description(INTERFACE))
        schema.config.update(base_url=lab.url)
        positive = schema.config.checks.positive_data_acceptance
        usual = [*positive.expected_statuses, "410"]
        headers = bearer("root", ADMIN)
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode == GenerationMode.NEGATIVE and not can_be_wrong(operation):
                continue
            positive.expected_statuses = [*usual, "422"] if operation.label in UNSAID else usual
            known = _prepare(lab.url, session, headers)
            check_answers(
                operation, mode, known, EXAMPLES_COUNT, headers=headers, timeout=10, session=session
            )
        assert not lab.gateway.failures
