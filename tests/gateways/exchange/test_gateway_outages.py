"""What the gateway depends on is away: readiness says so, sessions stay, clients are told, and recovery is automatic.

Source: exchange-session-service.md sections 5.4, 5.6 and 5.7.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import pytest
from exchange_auth_lab import ED_KEY, Issuer, token
from exchange_pod_lab import (
    Cable,
    PodLab,
    becomes,
    joined,
    kill,
    new_session,
    refused,
    running_postgres,
    running_valkey,
    soon,
    told,
)

from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.exchange.auth_config import AuthSettings, KeySettings
from sojourn.gateways.exchange.config import EmbeddedSettings


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


@pytest.fixture
def shared(postgres, valkey, tmp_path):
    """A lab whose pods have a Valkey."""
    return PodLab(tmp_path, postgres.dsn(), valkey.url())


async def readiness(http, pod):
    """Return the status of readiness, and the parts that are not well."""
    async with http.get(f"{pod.url}/readyz") as answer:
        parts = (await answer.json())["parts"]
        return answer.status, {part: state for part, state in parts.items() if state != "ok"}


async def is_ready(http, pod, wanted=(200, {})):
    """Wait for a readiness."""
    async with asyncio.timeout(20):
        while await readiness(http, pod) != wanted:
            pass


def test_the_database_dies_and_comes_back(lab, postgres, run):
    """Orders go on, their events wait; nobody is sent away, no new session is made; then everything comes by itself."""

    async def scenario():
        async with (
            lab.pod() as pod,
            lab.client() as http,
            lab.client("bob") as bobs,
            joined(http, pod) as ana,
        ):
            await ana.start()
            await ana.buy(1)
            await ana.events(2)
            session = ana.welcome["session"]
            await becomes(pod, session, state="active", links_count=1)
            await postgres.crash()
            assert (await ana.buy(2))["d"]["status"] == "filled"
            assert (await ana.hear("degraded"))["what"] == "events"
            await ana.hear("md")
            await is_ready(http, pod, (503, {"database": "down"}))
            async with bobs.post(f"{pod.url}/v1/sessions", json={"device": "d1"}) as answer:
                assert answer.status == 503
                assert "Retry-After" in answer.headers
            async with http.get(f"{pod.url}/healthz") as answer:
                assert answer.status == 200
            async with joined(http, pod, session, resume={"epoch": 1, "events": 1}) as second:
                assert [event["o"] for event in await second.events(1)] == [2]  # it needs no database
                assert (await second.buy(3))["d"]["status"] == "filled"
                assert not [frame for frame in ana.unread if frame["t"] == "ev"]
                await postgres.start()
                assert (await ana.hear("restored"))["what"] == "events"
                assert [(e["o"], e["d"]["quantity"]) for e in await ana.events(4)] == [
                    (3, 2),
                    (4, 2),
                    (5, 3),
                    (6, 3),
                ]
                assert [event["o"] for event in await second.events(4)] == [3, 4, 5, 6]
                await is_ready(http, pod)
                await becomes(pod, session, state="active", links_count=2)
            assert await new_session(bobs, pod) != session
            assert not told(pod, "housekeeping_failed")

    run(scenario())


def test_what_came_while_the_database_was_away_is_written_later(lab, postgres, run):
    """A session that a client joins during an outage is not taken for one that nobody has come to."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http:
            session = await new_session(http, pod)
            async with joined(http, pod, session):
                await becomes(pod, session, state="active")
            await becomes(pod, session, state="detached")
            await postgres.crash()
            async with joined(http, pod, session) as ana:
                await pod_has_tried_to_write(pod)
                await postgres.start()
                await becomes(pod, session, state="active", links_count=1)
                assert (await ana.ask("snapshot"))["t"] == "ok"

    run(scenario())


async def pod_has_tried_to_write(pod):
    """Wait until a pod knows that its database is away."""
    await soon(lambda: not pod.gateway.store.is_up)


def test_the_gateway_starts_while_the_database_is_away(lab, postgres, run):
    """It serves, says 503, and is ready as soon as the database is there."""

    async def scenario():
        await postgres.crash()
        async with lab.pod(waits=False) as pod, lab.client() as http:
            assert await readiness(http, pod) == (503, {"database": "down"})
            for url in (
                f"{pod.url}/v1/ws?device=d1",
                f"{pod.url}/v1/ws?session={'0' * 8}-0000-7000-8000-{'0' * 12}",
            ):
                assert (await refused(http, url))[0] == 503
            assert told(pod, "backend_away")
            await postgres.start()
            await is_ready(http, pod)
            async with joined(http, pod) as ana:
                await ana.start()
            assert told(pod, "pod_ready")

    run(scenario())


def test_the_line_to_the_database_is_cut(run, tmp_path):
    """Connections that break off without a word are found, and made again."""

    async def scenario():
        async with PostgresServer(port=0) as server, Cable(f"127.0.0.1:{server.port}") as line:
            cut = PodLab(
                tmp_path, server.dsn().replace(f":{server.port}/", f":{line.address.partition(':')[2]}/")
            )
            async with cut.pod() as pod, cut.client() as http, joined(http, pod) as ana:
                await ana.start()
                line.cut()
                await ana.buy(1)
                await ana.hear("degraded")
                line.mend()
                await ana.hear("restored")
                assert [event["o"] for event in await ana.events(2)] == [1, 2]

    run(scenario())


def test_the_bus_loses_everything(shared, valkey, run):
    """A Valkey killed -9 that comes back empty: its owner goes on, and writes lease and log again from what it has."""

    async def scenario():
        async with shared.pod() as pod, shared.client() as http, joined(http, pod) as ana:
            await ana.start()
            await ana.buy(1)
            await ana.events(2)
            session, epoch = ana.welcome["session"], pod.gateway.keeper.owned[ana.welcome["session"]].epoch
            await kill(valkey)
            assert (await ana.buy(2))["d"]["status"] == "filled"
            assert (await ana.hear("degraded"))["what"] == "events"
            await is_ready(http, pod, (200, {"bus": "degraded"}))
            await ana.hear("md")
            await valkey.start()
            assert (await ana.hear("restored"))["what"] == "events"
            assert [event["o"] for event in await ana.events(2)] == [3, 4]
            await is_ready(http, pod)
            assert pod.gateway.keeper.owned[session].epoch == epoch  # nobody took it over
            async with joined(http, pod, session, resume={"epoch": 1, "events": 0}) as late:
                assert late.welcome["recovered"] == 4
                assert [event["o"] for event in await late.events(4)] == [1, 2, 3, 4]
            assert [event["state"] for event in told(pod, "bus")] == ["away", "up"]

    run(scenario())


@pytest.fixture
def place():
    """A directory that any user may pass, as servers of our own need it."""
    with tempfile.TemporaryDirectory(prefix="own-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_the_gateway_starts_while_its_bus_is_away(shared, valkey, run):
    """It is degraded; a client that comes is let in as soon as the bus is there, and not told that it may not."""

    async def scenario():
        await kill(valkey)
        async with shared.pod() as pod, shared.client() as http:
            await is_ready(http, pod, (200, {"bus": "degraded"}))
            session = await new_session(http, pod)
            coming = asyncio.ensure_future(_come(http, pod, session))
            await soon(lambda: session in pod.gateway.keeper.rooms)
            await valkey.start()
            assert (await coming)["session"] == session
            await is_ready(http, pod)

    run(scenario())


async def _come(http, pod, session):
    async with joined(http, pod, session) as ana:
        return ana.welcome


def test_a_server_of_our_own_that_dies_is_started_again(run, tmp_path, place):
    """Section 5.7: a PostgreSQL and a Valkey that live with the gateway; killed -9 they come back where they were."""

    async def scenario():
        own = PodLab(tmp_path, "")
        embedded = EmbeddedSettings(directory=str(place / "data"), valkey=True)
        async with (
            own.pod(embedded=embedded, store=None) as pod,
            own.client() as http,
            joined(http, pod) as ana,
        ):
            await ana.start()
            await ana.buy(1)
            await ana.events(2)
            servers = pod.gateway.backends._servers
            for name in ("postgres", "valkey"):
                before = servers[name].pid
                await kill(servers[name])
                await soon(lambda name=name, before=before: servers[name].pid not in (0, before))
                assert told(pod, "embedded_lost")[-1] == {"server": name}
            await is_ready(http, pod)
            await ana.buy(2)
            assert [event["o"] for event in await ana.events(2)] == [3, 4]
            session = ana.welcome["session"]
            assert await new_session(http, pod) == session
            async with joined(http, pod, session, resume={"epoch": 1, "events": 0}) as late:
                assert [event["o"] for event in await late.events(4)] == [1, 2, 3, 4]

    run(scenario())


def test_an_issuer_that_is_away_makes_no_pod_unready(lab, run):
    """Section 5.3: tokens of keys that are known go on; readiness says degraded, and 200."""

    async def scenario():
        async with Issuer() as issuer:
            keys = KeySettings(refresh_s=0.2, min_refresh_s=0.1, retry_s=0.1, keep_s=600.0, timeout_s=0.5)
            auth = AuthSettings(jwks_url=f"{issuer.url}/jwks", issuer="https://login.test/", keys=keys)
            now = time.time()
            bearer = token(ED_KEY, "EdDSA", "ed", iat=now - 10, exp=now + 600)
            headers = {"Authorization": f"Bearer {bearer}"}
            async with lab.pod(auth=auth) as pod, lab.client() as http:
                http.headers.update(headers)
                async with joined(http, pod) as ana:
                    issuer.status = 500
                    await soon(lambda: time.time() > now + 0.5)
                    await new_session(http, pod)
                    await is_ready(http, pod, (200, {"auth": "degraded"}))
                    assert await new_session(http, pod) == ana.welcome["session"]
                    issuer.status = 200
                    async with asyncio.timeout(20):
                        while (await readiness(http, pod)) != (200, {}):
                            await new_session(http, pod)

    run(scenario())
