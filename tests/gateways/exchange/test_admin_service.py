"""What administrators may do over REST, and how a pod says that it is ready: specification 5.3."""

from __future__ import annotations

import pytest
from exchange_service_lab import ANA, BOB, BUY, NO_SESSION, ROOT, refused, service_lab

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import relay_wire
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.bus import Pod
from sojourn.gateways.exchange.lifecycle import SimulatorState
from sojourn.gateways.exchange.pod_commands import PodCommands
from sojourn.gateways.exchange.problems import Kind
from sojourn.gateways.exchange.relay_wire import Describe, Failed
from sojourn.gateways.exchange.rows import Observation
from sojourn.gateways.exchange.service import SessionSearch
from sojourn.gateways.exchange.sessions import SessionKeeper


def test_administrators_find_everybodys_sessions(run):
    """By subject, state and pod, page by page."""

    async def scenario():
        async with service_lab(2) as lab:
            service = lab.pods[0].service
            hers, his = await lab.running(), await lab.make(BOB)
            await lab.do(service.end_session(BOB, his))

            async def found(subject="", state="", pod=""):
                page = await service.admin_sessions(SessionSearch(subject, state, pod), 10, "")
                return [one.id for one in page.sessions]

            assert await found() == [his, hers]
            assert await found(subject="ana") == [hers]
            assert await found(state="ended") == [his]
            assert await found(pod="pod-0") == [hers]
            assert await found(pod="pod-1") == []
            page = await service.admin_sessions(SessionSearch(), 1, "")
            assert [one.id for one in page.sessions] == [his]
            page = await service.admin_sessions(SessionSearch(), 1, page.next)
            assert ([one.id for one in page.sessions], page.next) == ([hers], "")
            assert (await service.admin_session(hers)).simulator.state == "running"
            with refused(Kind.NOT_FOUND):
                await service.admin_session(NO_SESSION)

    run(scenario())


def test_an_administrator_ends_anybodys_session(run):
    """Reason admin; who did it stands in the flight recorder, not in what the user reads."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            link = await lab.link(session)
            await lab.do(lab.pods[1].service.admin_end_session(ROOT, session))
            await lab.do(lab.pods[0].service.admin_end_session(ROOT, session))
            assert {"t": "ended", "reason": "admin"} in link.heard()
            shown = await lab.pods[0].service.get_session(ANA, session)
            assert (shown.ended_reason, "root" in str(shown)) == ("admin", False)
            with refused(Kind.NOT_FOUND):
                await lab.do(lab.pods[0].service.admin_end_session(ROOT, NO_SESSION))

    run(scenario())


def test_an_administrator_stops_anybodys_simulator(run):
    """Its owner does it, whichever pod that is; one that is over stays over."""

    async def scenario():
        async with service_lab(2) as lab:
            service = lab.pods[1].service
            await lab.running()
            await lab.running(BOB)
            page = await service.admin_simulators("running", 1, "")
            assert (len(page.simulators), page.next) == (1, page.simulators[0].id)
            page = await service.admin_simulators("running", 1, page.next)
            assert page.next == ""
            (simulator,) = page.simulators
            wanted = await lab.do(service.admin_stop_simulator(ROOT, simulator.id))
            assert (wanted.id, wanted.desired) == (simulator.id, "stopped")
            await lab.turns(60)
            again = await lab.do(service.admin_stop_simulator(ROOT, simulator.id))
            assert (again.state, again.generation) == ("stopped", wanted.generation)
            assert len(lab.simulators) == 1
            assert len((await service.admin_simulators("", 10, "")).simulators) == 2
            with refused(Kind.NOT_FOUND):
                await lab.do(service.admin_stop_simulator(ROOT, NO_SESSION))

    run(scenario())


def test_pods_describe_themselves(run):
    """Sessions, connections and version of each; of one that does not answer what the registry knows."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            await lab.link(session, pod=1)
            lab.pods[1].keeper.is_draining = True
            await lab.pods[1].announce()
            await lab.pods[1].bus.announce(Pod("pod-z", "z:1", load=7.0), 15.0)
            first, second, silent = (await lab.pods[0].service.admin_pods()).pods
            assert first == t.PodRow(name="pod-0", address="pod-0:8443", sessions_count=1, version="1.2.3")
            assert (second.links_count, second.is_draining, second.version) == (1, True, "1.2.3")
            assert silent == t.PodRow(name="pod-z", address="z:1", sessions_count=7)

    run(scenario())


def test_a_pod_is_drained_by_itself_or_by_another(run):
    """The one that answers if none is named; one that is not there is 404, one that does not answer 503."""

    async def scenario():
        async with service_lab(2) as lab:
            await lab.running()
            one, two = lab.pods
            assert await one.service.admin_drain(ROOT, "") == ("pod-0", 1)
            assert await two.service.admin_drain(ROOT, "pod-0") == ("pod-0", 1)
            assert (one.face.drains_count, two.face.drains_count) == (2, 0)
            assert await one.service.admin_drain(ROOT, "pod-1") == ("pod-1", 0)
            with refused(Kind.NOT_FOUND):
                await one.service.admin_drain(ROOT, "pod-9")
            two.kill()
            with pytest.raises(BackendUnavailable):
                await one.service.admin_drain(ROOT, "pod-1")

    run(scenario())


def test_connections_are_closed_on_every_pod_and_counted(run):
    """By session or subject: clients are told to come back, their session stays; a pod that is gone has none."""

    async def scenario():
        async with service_lab(3) as lab:
            session = await lab.running()
            service = lab.pods[2].service
            for order in (t.DisconnectOrder(session=session), t.DisconnectOrder(subject="ana")):
                links = [await lab.link(session, pod=number) for number in range(2)]
                await lab.pods[0].bus.announce(Pod("pod-z", "z:1"), 15.0)
                assert await lab.do(service.admin_disconnect(ROOT, order)) == 2
                assert [link.closed for link in links] == [1012, 1012]
                assert await lab.do(service.admin_disconnect(ROOT, order)) == 0
            assert (await service.get_session(ANA, session)).state != "ended"
            for order in (t.DisconnectOrder(session=NO_SESSION), t.DisconnectOrder(subject="eve")):
                with refused(Kind.NOT_FOUND):
                    await service.admin_disconnect(ROOT, order)

    run(scenario())


def test_a_pod_without_a_service_yet_says_so(run):
    """Between the first lease and the first request a process may be asked already."""

    async def scenario():
        fresh = PodCommands(SessionKeeper(None))
        answer = relay_wire.read_answer(await fresh.serve("", relay_wire.write(Describe())))
        assert isinstance(answer, Failed)

    run(scenario())


# Readiness


@pytest.mark.parametrize(
    ("part", "state", "ready", "shown"),
    [
        ("auth", "down", True, "degraded"),
        ("auth", "degraded", True, "degraded"),
        ("bus", "down", True, "degraded"),
        ("simulators", "down", True, "degraded"),
        ("database", "degraded", True, "degraded"),
        ("database", "down", False, "down"),
    ],
)
def test_only_what_no_session_can_do_without_makes_a_pod_unready(run, part, state, ready, shown):
    """Specification 5.3: auth being down must not make every pod unready, it only flags degraded."""

    async def scenario():
        async with service_lab(1) as lab:
            pod = lab.pods[0]
            pod.face.parts[part] = state
            found = pod.service.readiness()
            assert (found.ready, found.parts[part], found.pod) == (ready, shown, "pod-0")
            assert [name for name, one in found.parts.items() if one != "ok"] == [part]
            assert pod.service.health() == t.Health(pod="pod-0")

    run(scenario())


def test_a_pod_that_starts_or_leaves_is_not_ready(run):
    """Readiness is the pod's own ability."""

    async def scenario():
        async with service_lab(1) as lab:
            pod = lab.pods[0]
            assert pod.service.readiness().ready
            pod.face.is_ready = False
            assert not pod.service.readiness().ready
            assert pod.service.readiness().parts["database"] == "ok"

    run(scenario())


def test_a_failed_simulator_is_shown_with_its_reason(run):
    """What the driver said in words, and nothing else of it."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.make()
            row = (await lab.store.simulators.want(session, "running", driver="none")).row
            failed = Observation(state=SimulatorState.FAILED, failure={"detail": "no room", "node": "n7"})
            await lab.store.simulators.observe(row.id, row.generation, failed)
            shown = await lab.pods[0].service.get_simulator(ANA, session)
            assert (shown.state, shown.failure, "n7" in str(shown)) == ("failed", "no room", False)
            with refused(Kind.CONFLICT, "no_simulator"):
                await lab.do(lab.pods[0].service.submit_order(ANA, session, BUY, "k"))

    run(scenario())
