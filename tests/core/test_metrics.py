"""What Prometheus scrapes can be parsed and says what is."""

from __future__ import annotations

from core_lab import Say, lab, memory, running
from prometheus_client.parser import text_string_to_metric_families

from sojourn.core.metrics import Family, Together, metrics_text


def samples(server):
    """Return all samples as ``{(name, labels): value}``."""
    return parsed(metrics_text(server))


def parsed(text):
    """Return all samples of a scrape."""
    families = text_string_to_metric_families(text.decode())
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


def told(waiting=0.0, **queries):
    """Return what a process tells: a counter by database, a gauge, and one of its own."""
    samples = tuple(
        ("sojourn_queries_total", {"database": name}, float(count)) for name, count in queries.items()
    )
    return [
        Family("sojourn_queries", "Queries.", "counter", samples),
        Family("sojourn_waiting", "Waiting.", "gauge", (("sojourn_waiting", {}, waiting),)),
        Family("process_open_fds", "Files.", "gauge", (("process_open_fds", {}, 7.0),)),
    ]


SHOP, STOCK = (("sojourn_queries_total", (("database", name),)) for name in ("shop", "stock"))


def test_processes_are_told_of_as_one():
    """What is ours is summed, sample by sample; what a process has of its own is labelled with its worker."""
    found = parsed(
        Together().text(
            {11: (0, told(1, shop=5)), 12: (1, told(2, shop=7, stock=1))}, is_alive=lambda _pid: True
        )
    )
    assert (found[SHOP], found[STOCK]) == (12, 1)
    assert found["sojourn_waiting", ()] == 3
    assert found["process_open_fds", (("worker", "0"),)] == found["process_open_fds", (("worker", "1"),)] == 7
    assert found["sojourn_workers_answered", ()] == 2


def test_a_process_that_does_not_answer_keeps_its_counters_and_has_no_gauges():
    """A sum that went down and up again would be taken for a restart, and count everything twice."""
    together = Together()
    together.text({11: (0, told(1, shop=5)), 12: (1, told(2, shop=7))}, lambda _pid: True)
    found = parsed(together.text({11: (0, told(1, shop=6))}, lambda _pid: True))
    assert (found[SHOP], found["sojourn_waiting", ()]) == (13, 1)
    found = parsed(together.text({11: (0, told(1, shop=6)), 12: (1, told(2, shop=9))}, lambda _pid: True))
    assert (found[SHOP], found["sojourn_waiting", ()]) == (15, 3)


def test_what_a_process_counted_that_is_gone_stays_and_its_successor_adds_to_it():
    """The successor has the worker's index again, and another PID."""
    together = Together()
    together.text({11: (0, told(shop=5)), 12: (1, told(shop=7))}, lambda _pid: True)
    for pid, successor, sum_count in ((13, 0, 12), (13, 3, 15), (14, 1, 16)):
        found = parsed(
            together.text({11: (0, told(shop=5)), pid: (1, told(shop=successor))}, lambda _pid: False)
        )
        assert found[SHOP] == sum_count


def test_a_part_that_one_process_forgets_stays_as_long_as_another_tells_of_it():
    """A pool that nobody uses is forgotten with its figures; forgotten by all, the series ends."""
    together = Together()
    together.text({11: (0, told(shop=5, stock=2)), 12: (1, told(shop=7))}, lambda _pid: True)
    found = parsed(together.text({11: (0, told(stock=2)), 12: (1, told(shop=7))}, lambda _pid: True))
    assert (found[SHOP], found[STOCK]) == (12, 2)
    found = parsed(together.text({11: (0, told(shop=1)), 12: (1, told(shop=7))}, lambda _pid: True))
    assert found[SHOP] == 13
    assert STOCK not in found
    found = parsed(together.text({11: (0, told(shop=1, stock=1)), 12: (1, told(shop=7))}, lambda _pid: True))
    assert found[STOCK] == 1
