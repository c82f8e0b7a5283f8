"""The Kubernetes driver before an API server that does what it is told: every fault a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time

import msgspec
import pytest
import trustme
from kubernetes_conversations import CONVERSATIONS, spec_of
from kubernetes_lab import SPEC, KubernetesLab, Leap, becomes, reaches, seen_until, stub_lab
from kubernetes_stub import DRIVER_VERBS, KubernetesStub

from sojourn.core.settings import BreakerSettings
from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded
from sojourn.gateways.exchange.spawners.kubernetes import KubernetesSpawner
from sojourn.gateways.exchange.spawners.kubernetes_pods import FAILURE_ANNOTATION
from sojourn.gateways.exchange.spawners.spawner import Phase

POD = "sojourn-sim-1"
ELSEWHERE = {"spec": {"nodeName": "elsewhere"}, "status": {"phase": "Running"}}


@pytest.mark.parametrize("talk", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_before_the_stub(run, tmp_path, talk):
    """As the conversation's docstring says; tests/kubernetes/ holds the same ones with a real server."""

    async def work():
        async with stub_lab(tmp_path) as (lab, _):
            await talk(lab)

    run(work())


def with_stub(plan="run", **settings):
    """Run a test's coroutine with a stub, its node and an open spawner."""

    def decorate(work):
        def test(run, tmp_path):
            async def main():
                async with stub_lab(tmp_path, plan) as (lab, stub), lab.spawner(**settings) as spawner:
                    await work(lab, stub, spawner)

            run(main())

        test.__name__, test.__doc__ = work.__name__, work.__doc__
        return test

    return decorate


async def being_made(spawner):
    """Ask for a simulator whose Pod the node never finishes by itself; return its handle."""
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.STARTING, "ContainerCreating")
    return handle


# Watching


@with_stub(plan="hang")
async def test_a_watch_that_is_dropped_goes_on_where_it_was(lab, stub, spawner):
    """API concepts: a watch begins at the last version that was seen; nothing between is lost."""
    handle = await being_made(spawner)
    stub.drop_watches()
    await lab.kubelet.run(POD)
    await reaches(spawner, handle, Phase.RUNNING)
    assert spawner.mirror.counts.lists == 1


@with_stub(plan="hang")
async def test_a_version_that_is_forgotten_means_listing_anew(lab, stub, spawner):
    """API concepts, 410 Gone on the request: clear, list, watch from there."""
    handle = await being_made(spawner)
    stub.drop_watches()
    pod = json.loads(json.dumps(stub.pods[POD]))
    pod["metadata"]["labels"]["team"] = "later"
    stub.put(pod)
    stub.compact()
    await lab.kubelet.run(POD)
    await reaches(spawner, handle, Phase.RUNNING)
    assert (spawner.mirror.counts.too_old, spawner.mirror.counts.lists) == (1, 2)


@with_stub(plan="hang")
async def test_a_watch_may_be_told_in_the_stream_that_it_is_too_old(lab, stub, spawner):
    """API concepts, 410 Gone as an ERROR event."""
    handle = await being_made(spawner)
    stub.expire_watches()
    await becomes(lambda: spawner.mirror.counts.too_old == 1)
    await lab.kubelet.run(POD)
    await reaches(spawner, handle, Phase.RUNNING)


@with_stub(plan="hang", watch_silence_s=0.3)
async def test_a_silent_watch_is_begun_again(lab, stub, spawner):
    """kubespawner#209: a stream that is open and says nothing is not believed."""
    handle = await being_made(spawner)
    stub.is_silent = True
    await lab.kubelet.run(POD)
    await becomes(lambda: spawner.mirror.counts.silences >= 1)
    stub.is_silent = False
    await reaches(spawner, handle, Phase.RUNNING)
    assert spawner.mirror.counts.lists == 1


@with_stub(relist_s=0.4)
async def test_a_lost_event_is_found_by_listing_anew(lab, stub, spawner):
    """Spec 5.5: relist regardless of what the watch says."""
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.RUNNING)
    stub.lose(POD)
    assert (await reaches(spawner, handle, Phase.STOPPED)).detail == "it is gone"


@with_stub(plan="hang")
async def test_a_bookmark_saves_a_list(lab, stub, spawner):
    """API concepts, bookmarks: the version moves along although none of our Pods changes."""
    handle = await being_made(spawner)
    for number in range(5):
        stub.put({"metadata": {"name": f"another-{number}", "uid": f"uid-{number}"}, **ELSEWHERE})
    version = str(stub.version)
    stub.send_bookmarks()
    await becomes(lambda: spawner.mirror._version == version)
    stub.compact()
    stub.drop_watches()
    await lab.kubelet.run(POD)
    await reaches(spawner, handle, Phase.RUNNING)
    assert (spawner.mirror.counts.too_old, spawner.mirror.counts.lists) == (0, 1)


@with_stub(list_chunk_count=2)
async def test_a_long_list_is_read_in_pages(lab, stub, spawner):
    """API concepts, chunks: one list of many answers."""
    for number in range(5):
        await spawner.create(spec_of(number))
    before = stub.count("list")
    assert len(await spawner.list()) == 5
    assert stub.count("list") - before == 3


@with_stub(list_chunk_count=2)
async def test_a_list_that_is_forgotten_in_the_middle_is_begun_again(lab, stub, spawner):
    """API concepts, 410 on a continue token: only a fresh list is consistent."""
    for number in range(5):
        await spawner.create(spec_of(number))
    before = stub.count("list")
    listing = asyncio.gather(spawner.list())
    await stub.until(lambda: stub.count("list") == before + 1)
    await becomes(lambda: stub._snapshots)
    stub.compact()
    (seen,) = await listing
    assert len(seen) == 5


@with_stub(random=lambda: 1.0)
async def test_watches_that_end_at_once_are_no_flood(lab, stub, spawner):
    """jupyterhub/kubespawner#209: 4,000 requests a minute were an outage too."""
    began, before = time.monotonic(), stub.count("watch")
    stub.is_brief = True
    stub.drop_watches()
    await stub.until(lambda: stub.count("watch") >= before + 6)
    assert time.monotonic() - began >= 0.02 + 0.04 + 0.08 + 0.16


@with_stub(plan="hang")
async def test_an_answer_that_comes_late_does_not_turn_back_time(lab, stub, spawner):
    """The watch may overtake the answer to our own write: the older of the two is nothing."""
    handle = await being_made(spawner)
    early = spawner.mirror.get(POD)
    await lab.kubelet.run(POD)
    await reaches(spawner, handle, Phase.RUNNING)
    spawner.mirror.put(early)
    assert (await spawner.poll(handle)).phase == Phase.RUNNING
    await spawner.stop(handle, 1.0)
    spawner.mirror.put(early)
    assert spawner.mirror.pods == []


@with_stub(pool=1)
async def test_what_another_process_has_just_made_or_claimed_is_not_gone(lab, stub, spawner):
    """A watch is late by nature: STOPPED is said only of what the server itself does not have."""
    await spawner.upkeep(())
    await becomes(lambda: spawner.pool.ready_count == 1)
    async with lab.spawner(pool=1) as late:
        await becomes(lambda: late.pool.ready_count == 1)
        stub.is_silent = True
        claimed, made = await spawner.create(spec_of(1)), await spawner.create(spec_of(2))
        for handle in (claimed, made):
            assert (await late.poll(handle)).phase in (Phase.STARTING, Phase.RUNNING)


def trouble(stub: KubernetesStub, lab: KubernetesLab, chance: random.Random) -> None:
    """Do one of the things that go wrong."""
    verb = chance.choice(["create", "get", "list", "watch", "patch", "delete", "*"])
    chance.choice(
        [
            stub.drop_watches,
            stub.cut_connections,
            stub.compact,
            stub.expire_watches,
            stub.send_bookmarks,
            lambda: stub.fault(verb, chance.choice([0, 429, 500, 503]), is_done=chance.random() < 0.5),
            lambda: setattr(stub, "is_silent", not stub.is_silent),
            lambda: stub.remove(chance.choice(list(stub.pods))) if stub.pods else None,
            lambda: stub.lose(chance.choice(list(stub.pods))) if stub.pods else None,
        ]
    )()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_went_wrong_what_we_see_becomes_what_there_is(run, tmp_path, seed):
    """Issue 4: recovery is automatic, of 120 random troubles one on top of the other."""
    chance = random.Random(seed)

    async def work():
        more = {"relist_s": 0.4, "watch_silence_s": 0.2, "request_timeout_s": 1.0}
        async with stub_lab(tmp_path, "run") as (lab, stub), lab.spawner(**more) as spawner:
            for number in range(120):
                trouble(stub, lab, chance)
                if number % 3 == 0:
                    with contextlib.suppress(BackendUnavailable):
                        handle = await spawner.create(spec_of(number))
                        if chance.random() < 0.3:
                            await spawner.stop(handle, 1.0)
            stub.faults.clear()
            stub.is_silent = False

            def of(pods):
                return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods.values()}

            await becomes(
                lambda: {pod.name: pod.metadata.uid for pod in spawner.mirror.pods} == of(stub.pods)
            )
            for seen in await spawner.list():
                if seen.status.phase != Phase.RUNNING:
                    await reaches(spawner, seen.handle, Phase.RUNNING)
                await spawner.stop(seen.handle, 1.0)
            assert not stub.pods

    run(work())


# Refusals, delays, losses


@with_stub(retry_max_s=2.0)
async def test_a_busy_server_is_asked_again_when_it_says(lab, stub, spawner):
    """RFC 9110 section 10.2.3: Retry-After is obeyed."""
    stub.fault("create", 429, retry_after_s=1)
    began = time.monotonic()
    await spawner.create(SPEC)
    assert time.monotonic() - began >= 1.0
    assert stub.count("create") == 2


@with_stub()
async def test_a_server_that_is_busy_for_long_is_unavailable_at_once(lab, stub, spawner):
    """No wait is longer than is configured."""
    stub.fault("create", 429, retry_after_s=60)
    with pytest.raises(BackendUnavailable, match="too busy, and asks to come again in 60 s"):
        await spawner.create(SPEC)
    assert stub.count("create") == 1


@with_stub(attempts_count=3)
async def test_a_server_error_is_tried_again_and_then_told(lab, stub, spawner):
    """Spec 5.5: 5xx with backoff; an end to it."""
    stub.fault("create", 503, times=2)
    await spawner.create(SPEC)
    stub.fault("create", 500, times=3)
    with pytest.raises(BackendUnavailable, match="it answered 500: told to"):
        await spawner.create(spec_of(2))
    assert stub.count("create") == 6


@with_stub(breaker=BreakerSettings(consecutive_failures_count=2, open_s=30.0), attempts_count=2)
async def test_a_server_that_keeps_failing_is_left_in_peace(lab, stub, spawner):
    """Spec 5.6: an open circuit makes no request."""
    stub.fault("*", 500, times=1_000)
    with pytest.raises(BackendUnavailable):
        await spawner.create(SPEC)
    before = stub.count("create")
    with pytest.raises(BackendUnavailable, match="circuit open"):
        await spawner.create(SPEC)
    assert stub.count("create") == before


@pytest.mark.parametrize("status", [500, 0], ids=["an error", "a cut connection"])
def test_a_create_whose_answer_is_lost_has_made_one_pod(run, tmp_path, status):
    """Spec 5.5: the name is deterministic, so the 409 of the retry is ours."""

    async def work():
        async with stub_lab(tmp_path) as (lab, stub), lab.spawner() as spawner:
            stub.fault("create", status, is_done=True)
            handle = await spawner.create(SPEC)
            await reaches(spawner, handle, Phase.RUNNING)
            assert len(stub.pods) == 1
            assert stub.count("create") == 2

    run(work())


@with_stub(request_timeout_s=0.2, attempts_count=2)
async def test_a_server_that_never_answers_costs_the_deadline_and_no_more(lab, stub, spawner):
    """Every wait has a deadline."""
    stub.fault("create", -1, times=2)
    with pytest.raises(BackendUnavailable, match="no answer in time"):
        await spawner.create(SPEC)


@with_stub(relist_s=0.2, attempts_count=1)
async def test_an_outage_is_told_and_got_over(lab, stub, spawner):
    """Issue 4: Kubernetes down: simulators stay, the operator reads why, recovery is automatic."""
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.RUNNING)
    await stub.stop_listening()
    await becomes(lambda: not spawner.mirror.is_fresh)
    with pytest.raises(BackendUnavailable):
        await spawner.poll(handle)
    assert spawner.trouble
    await stub.start_listening()
    await becomes(lambda: spawner.mirror.is_fresh and not spawner.trouble)
    assert (await spawner.poll(handle)).phase == Phase.RUNNING
    assert list(stub.pods) == [POD]


@with_stub()
async def test_a_connection_cut_in_the_middle_of_a_watch_is_only_a_pause(lab, stub, spawner):
    """Issue 4: nothing else is disturbed."""
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.RUNNING)
    stub.cut_connections()
    await becomes(lambda: spawner.mirror.counts.failures >= 1)
    await lab.kubelet.fail(POD, 4)
    assert (await reaches(spawner, handle, Phase.FAILED)).detail == "it ended with exit code 4"


@with_stub()
async def test_a_stop_that_is_refused_is_told_and_may_be_tried_again(lab, stub, spawner):
    """Spawner.stop: BackendUnavailable, to be tried again; gone already is fine."""
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.RUNNING)
    stub.fault("delete", 500, times=4)
    with pytest.raises(BackendUnavailable):
        await spawner.stop(handle, 1.0)
    await spawner.stop(handle, 1.0)
    await spawner.stop(handle, 1.0)
    assert not stub.pods


# Rights


@pytest.mark.parametrize("verb", sorted(DRIVER_VERBS))
def test_without_any_verb_of_its_role_the_driver_cannot_work(run, tmp_path, verb):
    """deploy/base/roles.yaml is minimal: each of the six is needed, and the operator reads which is missing."""

    async def work():
        async with stub_lab(tmp_path) as (lab, stub):
            async with lab.spawner(pool=1) as ready:
                await ready.upkeep(())
                await becomes(lambda: ready.pool.ready_count == 1)
            stub.roles["driver-token"] = DRIVER_VERBS - {verb}
            async with lab.spawner(pool=1, attempts_count=1) as spawner:
                if verb == "watch":
                    await becomes(lambda: spawner.trouble)
                    raise BackendUnavailable("kubernetes", 0.0, spawner.trouble)
                for number in (1, 2):
                    handle = await spawner.create(spec_of(number))
                    await spawner.attached(handle)
                await spawner.stop(handle, 1.0)

    with pytest.raises(BackendUnavailable, match=r"we may not .*see the Role in deploy/.*cannot " + verb):
        run(work())


@with_stub(attempts_count=1)
async def test_an_unknown_token_is_said_to_be_one(lab, stub, spawner):
    """401 in words; no token in them."""
    del stub.roles["driver-token"]
    with pytest.raises(BackendUnavailable, match="does not know us") as caught:
        await spawner.create(SPEC)
    assert "driver-token" not in str(caught.value)


def test_a_token_that_rotates_is_read_again(run, tmp_path):
    """Service account tokens end after an hour; the kubelet writes the next one into the same file."""

    async def work():
        async with stub_lab(tmp_path) as (lab, stub):
            token = tmp_path / "token"
            token.write_text("driver-token", encoding="utf-8")
            document = json.loads((tmp_path / "kubeconfig-driver-token.json").read_text(encoding="utf-8"))
            document["users"][0]["user"] = {"tokenFile": str(token)}
            kubeconfig = tmp_path / "rotating.json"
            kubeconfig.write_text(json.dumps(document), encoding="utf-8")
            async with lab.spawner(kubeconfig_file=str(kubeconfig)) as spawner:
                stub.roles["next-token"] = stub.roles.pop("driver-token")
                token.write_text("next-token", encoding="utf-8")
                await spawner.create(SPEC)

    run(work())


@with_stub()
async def test_a_namespace_that_is_full_says_so(lab, stub, spawner):
    """Spawner.create: LimitExceeded if the place is full, by its own quota or by ours."""
    stub.quota_count = 0
    with pytest.raises(LimitExceeded, match="quota of the namespace exchange"):
        await spawner.create(SPEC)


@with_stub(simulators_count=1)
async def test_more_simulators_than_configured_are_refused(lab, stub, spawner):
    """Every number has a bound; asking again for one that is there is not one more."""
    await spawner.create(spec_of(1))
    with pytest.raises(LimitExceeded):
        await spawner.create(spec_of(2))
    await spawner.create(spec_of(1))


# Pods


@with_stub()
async def test_a_pod_of_somebody_else_is_never_taken_over(lab, stub, spawner):
    """A name that is taken is ours only if the labels say so."""
    stub.put({"metadata": {"name": POD, "uid": "theirs", "labels": {}}, **ELSEWHERE})
    with pytest.raises(BackendUnavailable, match="not ours"):
        await spawner.create(SPEC)
    assert stub.pods[POD]["metadata"]["uid"] == "theirs"


@with_stub(plan="hang")
async def test_a_start_is_told_step_by_step(lab, stub, spawner):
    """Spec 5.5: progress in words, and nothing in them that only the operator should know."""
    await being_made(spawner)
    reading = asyncio.gather(seen_until(spawner, "sim-1", Phase.RUNNING))
    await lab.kubelet.run(POD)
    (news,) = await reading
    assert [seen.status.phase for seen in news] == [Phase.STARTING, Phase.RUNNING]
    assert "registry" not in news[0].status.detail


@with_stub()
async def test_what_somebody_deletes_by_hand_has_stopped(lab, stub, spawner):
    """kubectl delete pod: the watch tells it, and poll says it afterwards."""
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.RUNNING)
    assert (await lab.ask("DELETE", f"pods/{POD}"))[0] == 200
    await reaches(spawner, handle, Phase.STOPPED)
    assert (await spawner.poll(handle)).phase == Phase.STOPPED


@with_stub()
async def test_one_that_runs_and_stops_answering_still_runs(lab, stub, spawner):
    """UNREACHABLE is a condition, not a state: only its owner can tell."""
    handle = await spawner.create(SPEC)
    status = await reaches(spawner, handle, Phase.RUNNING)
    pod = await lab.pod(POD)
    containers = pod["status"]["containerStatuses"]
    containers[0]["ready"] = False
    await lab.kubelet.set_status(POD, containerStatuses=containers)
    later = await reaches(spawner, handle, Phase.RUNNING, "does not answer its probe")
    assert later.endpoint == status.endpoint


def test_what_was_given_up_before_a_crash_is_deleted_by_the_next_process(run, tmp_path):
    """Spec 5.5: adopt by labels; the failure stands on the Pod, so no process has to remember it."""

    async def work():
        async with stub_lab(tmp_path, "hang") as (lab, stub):
            async with lab.spawner() as spawner:
                handle = await spawner.create(SPEC)
            pod = json.loads(json.dumps(stub.pods[POD]))
            pod["metadata"]["annotations"][FAILURE_ANNOTATION] = "it did not run within 5 s"
            stub.put(pod)
            async with lab.spawner() as heir:
                await becomes(lambda: not stub.pods)
                await becomes(lambda: not heir.mirror.pods)
                status = await heir.poll(handle)
                assert (status.phase, status.detail) == (Phase.FAILED, "it did not run within 5 s")

    run(work())


@with_stub(plan="hang", start_timeout_s=0.5)
async def test_one_that_begins_to_run_at_the_last_moment_is_not_given_up(lab, stub, spawner):
    """The failure is written only if nothing has happened to the Pod since it was looked at."""
    stub.fault("patch", 409, times=10_000, reason="Conflict")
    handle = await being_made(spawner)
    await stub.until(lambda: stub.count("patch") >= 1)
    await lab.kubelet.run(POD)
    stub.faults.clear()
    await reaches(spawner, handle, Phase.RUNNING)
    assert FAILURE_ANNOTATION not in stub.pods[POD]["metadata"]["annotations"]


@with_stub()
async def test_a_simulator_under_its_old_name_waits_for_the_end_of_the_old_pod(lab, stub, spawner):
    """A Pod that is ending is not the one that is wanted."""
    lab.kubelet.plan = "stuck"
    handle = await spawner.create(SPEC)
    await reaches(spawner, handle, Phase.RUNNING)
    assert (await lab.ask("DELETE", f"pods/{POD}"))[0] == 200
    with pytest.raises(BackendUnavailable, match="still ending"):
        await spawner.create(SPEC)


# The pool


@with_stub(pool=1)
async def test_a_claim_whose_answer_is_lost_is_still_a_claim(lab, stub, spawner):
    """Compare-and-swap: the conflict of the retry is looked at, and is ours."""
    await spawner.upkeep(())
    await becomes(lambda: spawner.pool.ready_count == 1)
    stub.fault("patch", 500, is_done=True)
    handle = await spawner.create(SPEC)
    assert handle.simulator.startswith("warm-")
    assert len(stub.pods) == 1


@with_stub(pool=2)
async def test_another_market_is_not_served_from_the_pool(lab, stub, spawner):
    """Only what is the same in everything stands in."""
    await spawner.upkeep(())
    await becomes(lambda: spawner.pool.ready_count == 2)
    market = msgspec.structs.replace(SPEC.market, cash="5")
    assert (await spawner.create(msgspec.structs.replace(SPEC, market=market))).simulator == "sim-1"


def test_a_pool_whose_pods_keep_failing_is_filled_more_and_more_slowly(run, tmp_path):
    """No loop that makes Pods as fast as they fail: after n of them the pause is 2 ** n times the first."""

    async def work():
        leap = Leap()
        async with stub_lab(tmp_path, "exit") as (lab, stub), lab.spawner(leap, pool=1) as spawner:
            pause_s = spawner.pool.settings.retry_s
            for count in (1, 2, 3):
                await spawner.upkeep(())
                assert stub.count("create") == count
                await becomes(lambda: not spawner.mirror.pods)
                leap.by_s += pause_s * 0.4
                await spawner.upkeep(())
                assert stub.count("create") == count
                leap.by_s += pause_s * 0.6
                pause_s *= 2

    run(work())


@with_stub(pool=1)
async def test_a_pod_of_the_pool_is_no_simulator_yet(lab, stub, spawner):
    """list() is what sessions have; a reconciler must not stop the stock."""
    await spawner.upkeep(())
    await becomes(lambda: spawner.pool.ready_count == 1)
    assert await spawner.list() == []
    handle = await spawner.create(SPEC)
    assert [seen.handle for seen in await spawner.list()] == [handle]


@with_stub(pool=3)
async def test_a_smaller_pool_lets_the_youngest_go(lab, stub, spawner):
    """A change of the size is met in one pass."""
    await spawner.upkeep(())
    await becomes(lambda: spawner.pool.ready_count == 3)
    async with lab.spawner(pool=1) as smaller:
        await smaller.upkeep(())
        await becomes(lambda: len(stub.pods) == 1)


# Settings


def test_inside_a_cluster_the_service_account_is_enough(run, tmp_path, monkeypatch):
    """Token, namespace and the cluster's authority are files there, the server's address is in the environment."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("driver-token", encoding="utf-8")
    (tmp_path / "namespace").write_text("exchange", encoding="utf-8")

    async def work():
        async with KubernetesStub(tls=tls) as stub:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", stub.url.rpartition(":")[2])
            lab = KubernetesLab(stub.url, "", "", "exchange", None)
            async with lab.spawner(account_directory=str(tmp_path)) as spawner:
                handle = await spawner.create(SPEC)
            assert (list(stub.pods), handle.place["namespace"]) == ([POD], "exchange")

    run(work())


def test_without_a_kubeconfig_the_operator_reads_what_is_missing(run, tmp_path):
    """ConfigError: the operator can fix it."""

    async def work():
        async with KubernetesStub() as stub:
            lab = KubernetesLab(stub.url, str(tmp_path / "nowhere"), "", "exchange", None)
            with pytest.raises(ConfigError, match=r"exchange\.kubernetes\.kubeconfig_file"):
                await KubernetesSpawner(lab.settings()).open()

    run(work())


def test_a_server_that_is_not_there_is_said_at_the_start(run, tmp_path):
    """Spawner.open: BackendUnavailable if the place does not answer."""

    async def work():
        async with KubernetesStub() as stub:
            lab = KubernetesLab(stub.url, stub.kubeconfig(tmp_path), "", "exchange", None)
            await stub.stop_listening()
            with pytest.raises(BackendUnavailable, match="kubernetes unavailable"):
                await KubernetesSpawner(lab.settings(attempts_count=1)).open()

    run(work())
