"""What operators see of a real server: figures, peers, limits, events, streams, diagrams, pages."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET

import aiohttp
from admin_lab import SCRIPT, admin_lab, admin_settings, told
from core_lab import only, until

from sojourn.admin.config import StreamSettings
from sojourn.core.events import EventKind
from sojourn.core.panel import Trouble
from sojourn.core.peer import Peer

ASKED = EventKind("test.asked", ("request", "more"))


def test_the_overview_tells_each_gateway_in_figures(run, tmp_path):
    """Counted since the start, per second, and the last minute second by second."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            wires = [lab.wire() for _ in range(3)]
            for wire, text in zip(wires, ("Ana", "end", "bug"), strict=True):
                await wire.ask(text)
            lab.clock.advance(1.0)
            lab.server.rates.sample(lab.clock())
            status, overview = await lab.ask("GET", "/api/v1/overview")
            assert status == 200
            (row,) = overview["gateways"]
            assert (row["name"], row["title"]) == ("lab", "The lab")
            assert (row["sessions_opened"], row["sessions_failed"], row["connections"]) == (3, 1, 3)
            assert (row["packets_in"], row["packets_out"]) == (3, 3)
            assert row["bytes_in"] > 0 < row["bytes_out"]
            assert (row["opened_per_s"], row["failed_per_s"]) == (3.0, 1.0)
            assert row["series"]["packets_per_s"] == [6.0]
            assert (overview["uptime_s"], overview["is_draining"], overview["workers"]) == (1.0, False, 1)

    run(scene())


def test_problems_come_first_the_worst_first(run, tmp_path):
    """What a gateway says, failed sessions, open circuits, and bugs of ours."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            lab.gateway.broken = [
                Trouble("warning", "the lamp flickers"),
                Trouble("error", "the lamp is out", since=lab.clock()),
            ]
            await lab.wire().ask("bug")
            lab.clock.advance(1.0)
            lab.server.rates.sample(lab.clock())
            lab.server.events.flush()
            _, overview = await lab.ask("GET", "/api/v1/overview")
            problems = [(one["severity"], one["text"]) for one in overview["problems"]]
            assert problems == [
                ("error", "session.handler_failed happened once in the last 5 minutes"),
                ("error", "the lamp is out"),
                ("warning", "the lamp flickers"),
                ("warning", "1 session failed in the last minute"),
            ]
            assert overview["problems"][3]["link"] == "#/sessions?gateway=lab&state=failed"

    run(scene())


def test_peers_limits_listeners_and_breakers_are_told(run, tmp_path):
    """One row per address, per limit, per listener, per endpoint."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            wires = [lab.wire(peer=Peer(address, 9)) for address in ("192.0.2.1", "192.0.2.1", "::1")]
            for wire in wires:
                await wire.ask("Ana")
            _, page = await lab.ask("GET", "/api/v1/peers?limit=1")
            assert [(one["address"], one["connections"]) for one in page["peers"]] == [("192.0.2.1", 2)]
            assert page["more"] == 1
            _, page = await lab.ask("GET", "/api/v1/peers?gateway=other")
            assert page == {"peers": [], "more": 0}
            _, limits = await lab.ask("GET", "/api/v1/limits")
            used = {one["name"]: one["used"] for one in limits["limits"]}
            assert (used["connections"], used["connections of one address"]) == (3, 2)
            assert (await lab.ask("GET", "/api/v1/listeners"))[1] == {"listeners": []}
            with lab.server.breakers.guard("vault"):
                pass
            _, breakers = await lab.ask("GET", "/api/v1/breakers")
            assert [(one["endpoint"], one["state"]) for one in breakers["breakers"]] == [("vault", "closed")]

    run(scene())


def test_events_are_found_by_level_kind_and_text(run, tmp_path):
    """Warnings are remembered longer than the rest."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            await lab.wire().ask("bug")
            lab.server.events.flush()
            _, page = await lab.ask("GET", "/api/v1/events?level=error")
            (found,) = page["events"]
            assert found["kind"] == "session.handler_failed"
            assert found["session"].startswith("lab-")
            assert found["fields"]["error"] == "ZeroDivisionError"
            _, page = await lab.ask("GET", "/api/v1/events?kind=server.&limit=1")
            assert [one["kind"] for one in page["events"]] == ["server.started"]
            assert (await lab.ask("GET", "/api/v1/events?search=nothing%20like%20it"))[1] == {"events": []}

    run(scene())


def test_values_of_an_event_are_told_as_people_write_them(run, tmp_path):
    """Several words are words, not a tuple of Python; what is too long is cut."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            lab.server.events.emit(ASKED, None, ("service=shell", "cmd=show"), "x" * 1_000)
            lab.server.events.flush()
            _, page = await lab.ask("GET", "/api/v1/events?kind=test.asked")
            (found,) = page["events"]
            assert found["fields"] == {"request": "service=shell cmd=show", "more": f"{'x' * 500}..."}

    run(scene())


def test_the_stream_tells_the_overview_then_what_happens(run, tmp_path):
    """Sessions that began and ended, and events, each as it happens."""

    async def scene():
        async with admin_lab(tmp_path) as lab, lab.local.get("/api/v1/stream") as response:
            assert response.content_type == "text/event-stream"
            ((name, first),) = await told(response, 1)
            assert (name, first["gateways"][0]["name"]) == ("overview", "lab")
            wire = lab.wire()
            await wire.ask("Ana")
            while (found := (await told(response, 1))[0])[0] != "session":
                pass
            assert found[1]["session"]["state"] == "open"
            assert found[1]["session"]["about"] == "Ana"
            await wire.ask("end")
            while (found := (await told(response, 1))[0])[0] != "session":
                pass
            assert (found[1]["session"]["state"], found[1]["session"]["reason"]) == (
                "finished",
                "finished",
            )

    run(scene())


def test_sessions_beyond_the_streams_rate_are_only_counted(run, tmp_path):
    """At most so many rows a second; the rest is a number."""
    settings = admin_settings(streams=StreamSettings(sessions_per_s=2, events_per_s=2))

    async def scene():
        async with admin_lab(tmp_path, settings) as lab, lab.local.get("/api/v1/stream") as response:
            await told(response, 1)
            wires = [lab.wire() for _ in range(5)]
            for wire in wires:
                await wire.ask("Ana")
            names = {}
            while "more" not in names:
                ((name, data),) = await told(response, 1)
                names.setdefault(name, []).append(data)
            assert len(names["session"]) == 1
            assert names["more"][0] == {"opened": 4, "ended": 0, "events": 0}

    run(scene())


def test_a_sessions_trace_is_followed_to_its_end(run, tmp_path):
    """First all that there is, then what is added, then how it ended."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            wire = lab.wire()
            await wire.ask("Ana")
            path = f"/api/v1/sessions/{only(lab.server).id}/trace/stream"
            async with lab.local.get(path) as response:
                ((name, first),) = await told(response, 1)
                assert name == "entries"
                assert [one["kind"] for one in first["entries"]] == ["in", "out"]
                await wire.ask("end")
                (_, grown), (name, ended) = await told(response, 2)
                assert [one["kind"] for one in grown["entries"]] == ["in", "out"]
                assert not grown["has_gap"]
                assert (name, ended["session"]["state"]) == ("ended", "finished")
                assert await response.content.read() == b"\n"
            status, _ = await lab.ask("GET", "/api/v1/sessions/lab-99/trace/stream")
            assert status == 404

    run(scene())


def test_a_trace_is_written_in_every_form(run, tmp_path):
    """A script in what a peer says is text in each of them."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            wire = lab.wire()
            await wire.ask(SCRIPT)
            session = only(lab.server).id
            await wire.ask("bug")
            texts = {}
            for form in ("json", "jsonl", "mermaid", "text", "svg"):
                async with lab.local.get(f"/api/v1/sessions/{session}/trace?format={form}") as answer:
                    assert answer.status == 200
                    texts[form] = await answer.text()
                    policy = answer.headers["Content-Security-Policy"]
                    assert policy == "default-src 'none'; frame-ancestors 'none'"
            assert texts["jsonl"].count("\n") == 6
            assert "<script" not in texts["mermaid"]
            image = ET.fromstring(texts["svg"])  # what is no XML raises
            assert {one.tag.rpartition("}")[2] for one in image.iter()} <= {
                *("svg", "title", "style", "line", "rect", "text", "g", "polygon"),
            }
            assert "Ask text=" in "".join(image.itertext())
            assert "internal error" in "".join(image.itertext())

    run(scene())


def test_a_gateways_page_and_its_operations_are_served(run, tmp_path):
    """Its module under /static/panels, its operations under its own prefix, each checked as any of ours."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            _, panels = await lab.ask("GET", "/api/v1/panels")
            (panel,) = panels["panels"]
            assert panel == {
                "gateway": "lab",
                "title": "The lab",
                "module": "/static/panels/lab.js",
                "operations": "/api/v1/panels/lab/",
            }
            async with lab.remote.get(panel["module"]) as answer:
                assert (answer.status, answer.content_type) == (200, "text/javascript")
            base = "/api/v1/panels/lab"
            assert (await lab.ask("GET", base + "/devices?search=lab"))[1] == [
                {"name": "lab-1", "is_locked": False}
            ]
            assert (await lab.ask("GET", base + "/devices/weird"))[1]["name"] == SCRIPT
            assert (await lab.ask("GET", base + "/devices/none"))[0] == 404
            assert (await lab.ask("GET", base + "/devices?wrong=1"))[0] == 400
            assert (await lab.ask("PUT", base + "/devices", "admin"))[0] == 405
            assert (await lab.ask("GET", "/api/v1/panels/other/devices"))[0] == 404
            assert (await lab.ask("GET", base + "/devices/a%2Fb"))[0] == 404
            renamed = base + "/devices/lab-1/rename"
            assert (await lab.ask("POST", renamed, "operate", json={"name": "x"}))[1]["name"] == "x"
            assert (await lab.ask("POST", renamed, "operate", json={"nome": "x"}))[0] == 422
            assert (await lab.ask("DELETE", base + "/devices/lab-1", "admin"))[0] == 204
            status, problem = await lab.ask("POST", base + "/too-much", "operate")
            assert (status, "secret" in str(problem)) == (429, False)
            async with lab.local.get(base + "/ticks") as response:
                assert await told(response, 3) == [("panel", 0), ("panel", 1), ("panel", 2)]
            _, audit = await lab.ask("GET", "/api/v1/audit", "admin")
            assert [one["what"] for one in audit["entries"]][-2:] == [
                "lab: Rename a device. name=lab-1",
                "panel PUT lab devices",
            ]

    run(scene())


def test_a_reader_that_takes_nothing_is_dropped(run, tmp_path):
    """Neither its queue nor its socket's buffer grows without end, and the others hear on."""
    streams = StreamSettings(queue_count=8, write_timeout_s=0.2, events_per_s=100_000, sessions_per_s=100_000)
    settings = admin_settings(streams=streams)

    async def scene():
        async with admin_lab(tmp_path, settings) as lab:
            reader, writer = await asyncio.open_connection(*lab.admin.address.split(":"), limit=1)
            token = "Bearer token-of-view-0123456789"
            writer.write(f"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
            await reader.read(1)
            writer.transport.pause_reading()
            streams = lab.admin._parts.streams
            await until(lambda: streams._readers)
            piece = b": " + b"x" * 100_000 + b"\n\n"
            async with lab.local.get("/api/v1/stream") as response, asyncio.timeout(20):
                while streams.open_count > 1:
                    streams._tell(piece)
                    await response.content.readuntil(b"x\n\n")
                assert streams.dropped_count == 1
            writer.close()
            await until(lambda: not streams.open_count)

    run(scene())


def test_streams_are_limited_and_looked_at_only_while_somebody_listens(run, tmp_path):
    """More than are configured are refused with 429; without a reader nothing runs."""
    settings = admin_settings(streams=StreamSettings(streams_count=1))

    async def scene():
        async with admin_lab(tmp_path, settings) as lab:
            streams = lab.admin._parts.streams
            assert not streams._is_running
            async with lab.local.get("/api/v1/stream") as response:
                await told(response, 1)
                status, problem = await lab.ask("GET", "/api/v1/stream")
                assert (status, problem["title"]) == (429, "More than is allowed")
                response.close()
            await until(lambda: not streams.open_count)
            await until(lambda: not streams._is_running)

    run(scene())


def test_streams_end_with_the_server(run, tmp_path):
    """A word first, so that the page knows why; nothing waits for a reader."""

    async def scene():
        async with admin_lab(tmp_path) as lab:
            response = await lab.local.get("/api/v1/stream")
            await told(response, 1)
            await lab.admin.stop()
            try:
                rest = await response.content.read()
            except aiohttp.ClientError:
                rest = b""
            assert b'event: dropped\ndata: {"reason":"the server stops"}' in rest

    run(scene())
