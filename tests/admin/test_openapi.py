"""The OpenAPI document: complete, valid, and what the server does; schemathesis tries to prove the contrary."""

from __future__ import annotations

import asyncio
import json
import threading

import jsonschema_rs
import pytest
import requests
import schemathesis
from admin_lab import TOKENS, admin_lab
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.generation import GenerationMode

from sojourn.admin.openapi import OPERATIONS, document
from sojourn.admin.problems import TABLE, Kind
from sojourn.web.openapi import refusals_of

EXAMPLES_COUNT = 8
STREAMS = {"GET /api/v1/stream", "GET /api/v1/sessions/{id}/trace/stream"}
"""They have no end of their own; others test them."""
UNSAID = {"POST /api/v1/login": ["401"]}
"""Operations that refuse what fits its schema: no link that somebody makes up is one."""


def test_every_operation_is_described_once():
    """One table: what is served is what is described."""
    paths = document({})["paths"]
    assert sum(len(methods) for methods in paths.values()) == len(OPERATIONS)
    ids = [one["operationId"] for methods in paths.values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_operation_documents_how_it_is_refused():
    """Each status that a route may answer with has a schema; whoever needs a token is told so."""
    for operation in OPERATIONS:
        described = document({})["paths"][operation.path][operation.method.lower()]
        assert {str(kind.status) for kind in refusals_of(operation)} <= set(described["responses"])
        assert described["security"] == ([] if operation.access == "open" else [{"token": []}])
        assert described["tags"] == [{"open": "Everybody"}.get(operation.access, operation.access)]
    assert TABLE["bad_login_link"] is Kind.BAD_LINK


def test_the_schemas_are_schemas():
    """OpenAPI 3.1: every component is a JSON Schema of draft 2020-12."""
    schemas = document({})["components"]["schemas"]
    for name, schema in schemas.items():
        whole = {**schema, "components": {"schemas": schemas}}
        assert jsonschema_rs.validator_for(json.loads(json.dumps(whole))), name


class Served:
    """The API in a thread of its own, as schemathesis calls synchronously."""

    def __init__(self, tmp_path):
        self._tmp_path = tmp_path

    def __enter__(self):
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._started.wait(20)
        return self

    async def _main(self):
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        async with admin_lab(self._tmp_path) as lab:
            await lab.wire().ask("Ana")
            await lab.wire().ask("bug")
            self.lab, self.url = lab, f"http://{lab.admin.address}"
            self.document = document(lab.view.panels())
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
def test_no_request_gets_an_answer_that_is_not_documented(mode, tmp_path):
    """Statuses, headers and bodies are those of the document, nothing is a 500, and what does not fit is refused."""
    with Served(tmp_path) as served, requests.Session() as session:
        schema = schemathesis.openapi.from_dict(served.document)
        schema.config.update(base_url=served.url)
        positive = schema.config.checks.positive_data_acceptance
        usual = list(positive.expected_statuses)
        headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
        known = {"id": "lab-2", "name": "lab-1"}
        for result in schema.get_all_operations():
            operation = result.ok()
            raw = operation.definition.raw
            has_input = bool(raw["parameters"] or "requestBody" in raw)
            if operation.label in STREAMS or (mode == GenerationMode.NEGATIVE and not has_input):
                continue
            positive.expected_statuses = [*usual, "404", "429", *UNSAID.get(operation.label, [])]
            _try(operation, mode, known, headers=headers, timeout=10, session=session)
        failures = [one for one in served.lab.server.events.recent if one.kind.name == "admin.request_failed"]
        assert not failures
