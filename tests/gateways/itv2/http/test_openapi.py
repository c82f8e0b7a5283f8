"""The OpenAPI document: complete, valid, and what the server does; schemathesis tries to prove the contrary."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import get_args

import pytest
import requests
import schemathesis
from itv2_api_lab import BASE, api, bearer
from openapi_lab import Threaded, can_be_wrong, check_answers, check_schemas
from schemathesis.generation import GenerationMode

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.commands import SCOPES, UNSUPPORTED
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.openapi import INTERFACE, document
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.problems import TABLE, Kind
from sojourn.gateways.itv2.http.routes import OPERATIONS
from sojourn.gateways.itv2.words import ARMABLE
from sojourn.web.openapi import description, refusals_of


def test_every_operation_is_described_once():
    """One table: what is served is what is described."""
    paths = description(INTERFACE)["paths"]
    assert sum(len(methods) for methods in paths.values()) == len(OPERATIONS)
    ids = [one["operationId"] for methods in paths.values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_command_there_is_can_be_asked_for():
    """Issue, interfaces: one core; modes and names are those of the words that it knows."""
    assert {order.command for order in ORDERS.values()} == set(SCOPES)
    assert set(ORDERS) <= {operation.handler for operation in OPERATIONS}
    assert set(get_args(t.Mode)) == set(ARMABLE)
    assert set(get_args(t.UnsupportedName)) == set(UNSUPPORTED)


def test_every_operation_documents_how_it_is_refused():
    """Each status that a route may answer with has a schema."""
    for operation in OPERATIONS:
        responses = description(INTERFACE)["paths"][operation.path][operation.method.lower()]["responses"]
        assert {str(kind.status) for kind in refusals_of(operation)} <= set(responses)
        if operation.access == "command":
            assert {"200", "409", "501", "504"} <= set(responses)
    kinds = {kind for operation in OPERATIONS for kind in refusals_of(operation)}
    # The rest belongs to what is no operation: other paths and methods, the WebSocket's handshake, lines too long.
    assert set(TABLE.values()) - kinds >= {Kind.BAD_METHOD, Kind.BAD_TICKET}


def test_the_document_is_served_as_it_is(run, tmp_path):
    """It needs no token."""

    async def go():
        async with api(tmp_path) as lab, lab.http.get(f"{lab.url}{BASE}/openapi.json") as answer:
            assert await answer.read() == document()

    run(go())


def test_the_schemas_are_schemas():
    """OpenAPI 3.1: every component is a JSON Schema of draft 2020-12."""
    check_schemas(INTERFACE)


EXAMPLES_COUNT = 5
SAID_NO = ["404", "409", "422", "501"]
"""What a request that fits may be answered: a panel's no is an answer, and rules of two fields are in no schema."""


KNOWN = {"panel": "house", "partition": 1, "zone": 1, "user": 2}
"""Parameters of paths under which there is something."""


@contextlib.asynccontextmanager
async def served():
    """The interface, and a panel that obeys."""
    with tempfile.TemporaryDirectory() as folder:
        async with api(Path(folder)) as lab:
            await lab.connect()
            lab.house.on_command = lambda command: _begin_programming(lab, command)
            yield lab


def _begin_programming(lab, command):
    if isinstance(command, m.EnterConfiguration):
        time = m.PanelTime(2026, 1, 1, 0, 0, 0)
        lead = m.ProgrammingLead(partition=1, phase=0, user=0, access=0, mode=command.mode, time=time)
        lab.panel.take(lead, "live", lab.gateway.wall_ms())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_no_request_gets_an_answer_that_is_not_documented(mode):
    """Statuses, headers and bodies are those of the document, nothing is a 500, and what does not fit is refused."""
    with Threaded(served) as lab, requests.Session() as session:
        schema = schemathesis.openapi.from_dict(description(INTERFACE))
        schema.config.update(base_url=lab.url)
        checks = schema.config.checks
        checks.positive_data_acceptance.expected_statuses += SAID_NO
        checks.not_a_server_error.expected_statuses += ["501"]
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode == GenerationMode.NEGATIVE and not can_be_wrong(operation):
                continue
            check_answers(
                operation, mode, KNOWN, EXAMPLES_COUNT, headers=bearer("root"), timeout=10, session=session
            )
        lab.server.events.flush()
        assert not [kind for kind, _ in lab.told if kind.endswith(("request_broke", "request_failed"))]
