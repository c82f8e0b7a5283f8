"""What Prometheus scrapes can be parsed and says what is."""

from __future__ import annotations

from core_lab import Say, lab, memory, running
from prometheus_client.parser import text_string_to_metric_families

from sojourn.core.metrics import metrics_text


def samples(server):
    """Return all samples as ``{(name, labels): value}``."""
    families = text_string_to_metric_families(metrics_text(server).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_text_parses_and_counts_what_happened(run):
    """Connections, sessions, packets, tasks, events, the offload pool and breakers, by gateway."""

    async def main():
        async with running(lab(lambda session, _ask: session.reply(Say("a")), keyed=True)) as server:
            wire = memory(server)
            for number in (1, 2):
                await wire.ask("a", session=number)
            found = samples(server)
            mine = (("gateway", "lab"),)
            assert found["sojourn_connections", mine] == 1
            assert found["sojourn_sessions", mine] == 2
            assert found["sojourn_tasks", mine] == 0
            assert found["sojourn_connections_opened_total", mine] == 1
            assert found["sojourn_sessions_opened_total", mine] == 2
            assert found["sojourn_packets_received_total", mine] == 2
            assert found["sojourn_packets_sent_total", mine] == 2
            assert found["sojourn_events_total", (("kind", "server.started"),)] >= 1
            assert found["sojourn_events_dropped_total", ()] == 0
            assert found["sojourn_view_errors_total", ()] == 0
            assert ("process_open_fds", ()) in found
            wire.close()

    run(main())


def test_a_gateway_adds_its_own(run):
    """Rows of the same name are one family; ``_total`` makes a counter; label values may hold anything."""

    async def main():
        rows = [
            ("lab_logins_total", {"result": "pass"}, 3),
            ("lab_queue", {}, 7),
            ("lab_logins_total", {"result": 'f"a\\i\nl'}, 1),
        ]
        async with running(lab(counters=lambda: rows)) as server:
            found = samples(server)
            assert found["lab_logins_total", (("result", "pass"),)] == 3
            assert found["lab_logins_total", (("result", 'f"a\\i\nl'),)] == 1
            assert found["lab_queue", ()] == 7

    run(main())
