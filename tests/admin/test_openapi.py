"""The OpenAPI document: complete, valid, and what the server does; schemathesis tries to prove the contrary."""

from __future__ import annotations

import collections
import json
import re

import aiohttp
import jsonschema_rs
import pytest
import requests
import schemathesis
from admin_lab import TOKENS
from admin_sites import KNOWN, NOWHERE, SITES, admin_site
from openapi_lab import Threaded, can_be_wrong, check_answers
from schemathesis.generation import GenerationMode

from sojourn.admin.openapi import OPERATIONS, document
from sojourn.admin.problems import TABLE, Kind
from sojourn.web.openapi import refusals_of
from sojourn.web.problems import MEDIA_TYPE

EXAMPLES_COUNT = 8
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
UNSAID = {
    "POST /api/v1/login": "401",
    "GET /api/v1/panels/tacacs/explain": "400",
    "POST /api/v1/panels/itv2/": "422",
}
"""Operations that refuse what fits their schemas, by how they begin: a link or a device that somebody has made up is
none, an order to a panel wants its code."""


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


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("name", SITES)
def test_no_request_gets_an_answer_that_is_not_documented(name, mode, tmp_path):
    """Statuses, headers and bodies are those of the document, nothing is a 500, and what does not fit is refused."""
    known = collections.defaultdict(lambda: NOWHERE, KNOWN[name])
    with Threaded(lambda: admin_site(name, tmp_path)) as site, requests.Session() as session:
        schema = schemathesis.openapi.from_dict(site.document())
        schema.config.update(base_url=site.url)
        positive = schema.config.checks.positive_data_acceptance
        usual = list(positive.expected_statuses)
        call = {
            "headers": {"Authorization": f"Bearer {TOKENS['admin']}"},
            "timeout": 10,
            "session": session,
        }
        for result in schema.get_all_operations():
            operation = result.ok()
            if is_stream(operation) or (mode == GenerationMode.NEGATIVE and not can_be_wrong(operation)):
                continue
            unsaid = [status for begin, status in UNSAID.items() if operation.label.startswith(begin)]
            positive.expected_statuses = [*usual, "404", "409", "429", *unsaid]
            check_answers(operation, mode, known, EXAMPLES_COUNT, **call)
        failures = [one for one in site.server.events.recent if one.kind.name == "admin.request_failed"]
        assert not failures


@pytest.mark.parametrize("name", SITES)
def test_a_method_that_is_not_documented_gets_405_and_those_that_are(name, run, tmp_path):
    """RFC 9110 section 15.5.6: Allow names every method of the path."""

    async def scene():
        headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
        async with admin_site(name, tmp_path) as site, aiohttp.ClientSession(headers=headers) as http:
            for path, methods in site.document()["paths"].items():
                known = {method.upper() for method in methods}
                for method in METHODS - known:
                    async with http.request(method, site.url + re.sub(r"\{\w+\}", NOWHERE, path)) as answer:
                        assert (answer.status, answer.content_type) == (405, MEDIA_TYPE), (method, path)
                        assert set(re.split(", ?", answer.headers["Allow"])) - {"HEAD"} == known, path
            assert site.view.orders == []

    run(scene())


def is_stream(operation):
    """Say whether an answer has no end of its own; what streams say is others' matter."""
    return "text/event-stream" in operation.definition.raw["responses"].get("200", {}).get("content", {})
