"""What all operations have in common: their requests are read as they say, and their work has a deadline."""

from __future__ import annotations

import asyncio
from typing import Literal

import aiohttp
import msgspec
import pytest
from aiohttp import web
from http_lab import serving

from sojourn.web.config import HttpSettings
from sojourn.web.front import Front
from sojourn.web.operations import Operation, Parameter
from sojourn.web.problems import Refusal
from sojourn.web.serving import in_time, read_request


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """A body whose fields may all be left out."""

    count: int = 1


def operation(method: Literal["GET", "POST"] = "POST", **fields) -> Operation:
    return Operation(method, "/things", "make_thing", "Make a thing.", **fields)


async def answers(one: Operation, **sent) -> tuple[int, dict]:
    """Return status and body of the answer to one request."""

    async def serve(request):
        query, key, raw, body = await read_request(request, one, HttpSettings())
        found = {"query": query, "key": key, "raw": raw.decode(), "body": msgspec.to_builtins(body)}
        return web.json_response(found)

    app = web.Application()
    Front(HttpSettings(), prefix="sojourn_test", on_failure=lambda *_: None).install(app)
    app.add_routes([web.route(one.method, one.path, serve)])
    async with (
        serving(app) as server,
        aiohttp.ClientSession() as http,
        http.request(one.method, server.url + one.path, **sent) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


def test_a_request_is_read_as_its_operation_says(run):
    """Query, key, and the body as it came and as a struct."""
    one = operation(body=Wish, key="optional", query=(Parameter("limit", "So many.", True, 1, 9, 5),))
    headers = {"Idempotency-Key": '"k1"', "Content-Type": "application/json"}
    status, found = run(answers(one, data=b'{"count": 2}', headers=headers, params={"limit": "3"}))
    assert status == 200
    assert found == {"query": {"limit": 3}, "key": "k1", "raw": '{"count": 2}', "body": {"count": 2}}


def test_a_key_that_is_required_is_missed(run):
    """draft-ietf-httpapi-idempotency-key-header-07 section 2.7."""
    status, found = run(answers(operation(key="required")))
    assert (status, found["type"]) == (400, "tag:sojourn,2026:problem:no_idempotency_key")


def test_a_body_that_may_be_absent_has_its_defaults(run):
    """Only where the operation says so."""
    status, found = run(answers(operation(body=Wish, may_be_absent=True)))
    assert (status, found["body"]) == (200, {"count": 1})
    status, _ = run(answers(operation(body=Wish)))
    assert status == 415


async def _long() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("method", "kind"), [("GET", "unavailable"), ("POST", "outcome_unknown")])
def test_work_that_takes_too_long_is_told_from_work_that_was_not_done(run, method, kind):
    """Who has changed something may have to look whether it is so; who only looked may look again."""
    with pytest.raises(Refusal) as caught:
        run(in_time(operation(method), _long(), 0.01))
    assert caught.value.kind.name == kind


def test_a_deadline_inside_the_work_is_not_taken_for_its_own(run):
    """A bug must look like one."""

    async def broken():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        run(in_time(operation(), broken(), 5.0))


def test_work_in_time_returns_what_it_returns(run):
    """Nothing is added to it."""

    async def quick():
        return 7

    assert run(in_time(operation(), quick(), 5.0)) == 7
