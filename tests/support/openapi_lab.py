"""Holding a served interface against its OpenAPI document, with requests that schemathesis makes up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.generation import GenerationMode

from sojourn.web.openapi import Interface, description


class Threaded:
    """A lab in a thread of its own, as schemathesis calls synchronously."""

    def __init__(self, lab: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._make_lab = lab
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> Any:
        self._thread.start()
        assert self._started.wait(20)
        return self._lab

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        async with self._make_lab() as self._lab:
            self._started.set()
            await self._over.wait()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)


def check_schemas(interface: Interface) -> None:
    """Make sure that every component is a JSON Schema of draft 2020-12."""
    schemas = description(interface)["components"]["schemas"]
    for name, schema in schemas.items():
        whole = {**schema, "components": {"schemas": schemas}}
        assert jsonschema_rs.validator_for(json.loads(json.dumps(whole))), name


def can_be_wrong(operation: Any) -> bool:
    """Say whether there is anything in a request that could not fit."""
    return bool(operation.definition.raw["parameters"] or "requestBody" in operation.definition.raw)


def check_answers(
    operation: Any, mode: GenerationMode, known: Mapping[str, Any], examples_count: int, **call: Any
) -> None:
    """Send requests to one operation and hold each answer against the document.

    Args:
        known: parameters of paths under which there is something, for requests that fit.
    """

    @hypothesis_settings(
        max_examples=examples_count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode == GenerationMode.POSITIVE:
            case.path_parameters.update({name: known[name] for name in case.path_parameters or ()})
        case.call_and_validate(**call)

    check()
