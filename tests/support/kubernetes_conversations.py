"""What the Kubernetes driver must do before any API server: run against the stub by `make test`, and against a real
kube-apiserver by `make test-kubernetes`. Each is a coroutine over a lab; its docstring names the rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from kubernetes_lab import SPEC, KubernetesLab, Leap, becomes, reaches

from sojourn.core.secret import Secret
from sojourn.gateways.exchange.sim.channel import GrpcioChannel
from sojourn.gateways.exchange.sim.stubs import pb
from sojourn.gateways.exchange.spawners.kubernetes_pods import POOL_LABEL, SESSION_LABEL
from sojourn.gateways.exchange.spawners.spawner import Phase

Conversation = Callable[[KubernetesLab], Awaitable[None]]
CONVERSATIONS: dict[str, Conversation] = {}


def conversation(work: Conversation) -> Conversation:
    """Register one."""
    CONVERSATIONS[work.__name__] = work
    return work


def spec_of(number: int):
    """Return the wish for one of several simulators."""
    return msgspec.structs.replace(SPEC, simulator=f"sim-{number}", session=f"session-{number}")


@conversation
async def a_simulator_starts_tells_how_and_stops(lab):
    """Spec 5.5: create, progress, poll, stop."""
    async with lab.spawner() as spawner:
        handle = await spawner.create(SPEC)
        assert (handle.simulator, handle.session, handle.driver) == ("sim-1", "session-1", "kubernetes")
        *_, last = [status async for status in spawner.progress(handle)]
        assert last.phase == Phase.RUNNING
        assert last.endpoint.endswith(":7400")
        assert [seen.handle for seen in await spawner.list()] == [handle]
        await spawner.stop(handle, 2.0)
        assert lab.kubelet.endings == {"sojourn-sim-1": 2}
        assert (await spawner.poll(handle)).phase == Phase.STOPPED
        assert await lab.pods() == {}


@conversation
async def a_second_create_is_the_same_pod(lab):
    """Spec 5.5: the name comes from the simulator's, and a 409 on a retry is ours."""
    async with lab.spawner() as spawner:
        assert await spawner.create(SPEC) == await spawner.create(SPEC)
        assert list(await lab.pods()) == ["sojourn-sim-1"]


@conversation
async def a_pod_that_its_node_refuses_fails_in_words_and_goes(lab):
    """Spec 5.5: FAILED and deleted; the user reads our words, not the node's."""
    lab.kubelet.plan = "badname"
    async with lab.spawner() as spawner:
        handle = await spawner.create(SPEC)
        status = await reaches(spawner, handle, Phase.FAILED)
        assert status.detail == "its image has a name that cannot be (InvalidImageName)"
        await becomes(lambda: spawner.mirror.pods == [])
        assert await spawner.poll(handle) == status


@conversation
async def a_pod_that_never_starts_is_given_up(lab):
    """Spec 5.5: start timeout, never pending for ever; the reason is told to everybody who watches."""
    lab.kubelet.plan = "pull"
    async with lab.spawner(start_timeout_s=0.6) as spawner, lab.spawner() as other:
        handle = await spawner.create(SPEC)
        words = "it did not run within 0.6 s: its image cannot be fetched (ImagePullBackOff)"
        for one in (spawner, other):
            assert (await reaches(one, handle, Phase.FAILED)).detail == words
        await becomes(lambda: not spawner.mirror.pods and not other.mirror.pods)
        assert await lab.pods() == {}


@conversation
async def a_pod_without_a_node_is_given_up(lab):
    """Spec 5.5: Unschedulable in words."""
    lab.kubelet.plan = "unschedulable"
    async with lab.spawner(start_timeout_s=0.6) as spawner:
        status = await reaches(spawner, await spawner.create(SPEC), Phase.FAILED)
        assert status.detail == "it did not run within 0.6 s: no node has room for it (Unschedulable)"


@conversation
async def a_process_that_ends_badly_says_how(lab):
    """Spec 5.5: the end is told with its cause."""
    lab.kubelet.plan = lambda pod: "oom" if pod["metadata"]["name"].endswith("1") else "exit"
    async with lab.spawner() as spawner:
        status = await reaches(spawner, await spawner.create(spec_of(1)), Phase.FAILED)
        assert status.detail == "it used more memory than it may (OOMKilled)"
        status = await reaches(spawner, await spawner.create(spec_of(2)), Phase.FAILED)
        assert status.detail == "it ended with exit code 3"


@conversation
async def a_new_process_of_ours_adopts_what_runs(lab):
    """Spec 5.5: adopt after a restart by labels; a simulator outlives the service."""
    async with lab.spawner() as spawner:
        handle = await spawner.create(SPEC)
        before = await reaches(spawner, handle, Phase.RUNNING)
        state = msgspec.json.encode(spawner.get_state(handle))
    async with lab.spawner() as heir:
        adopted = await heir.load_state(msgspec.json.decode(state))
        after = await heir.poll(adopted)
        assert (adopted, after.phase, after.endpoint) == (handle, Phase.RUNNING, before.endpoint)


@conversation
async def a_pod_whose_node_is_silent_is_removed_after_the_grace(lab):
    """Spec 5.5: stop with grace; the node has its time, then the API forgets the Pod."""
    lab.kubelet.plan = "stuck"
    async with lab.spawner(stop_margin_s=0.3) as spawner:
        handle = await spawner.create(SPEC)
        await reaches(spawner, handle, Phase.RUNNING)
        await spawner.stop(handle, 1.0)
        assert lab.kubelet.endings == {"sojourn-sim-1": 1}
        assert await lab.pods() == {}


@conversation
async def an_orphan_goes_in_the_second_pass_and_never_young(lab):
    """Spec 5.5: orphan collection in two passes with an age guard."""
    leap = Leap()
    async with lab.spawner(leap) as spawner:
        wanted, nobodys = await spawner.create(spec_of(1)), await spawner.create(spec_of(2))
        for handle in (wanted, nobodys):
            await reaches(spawner, handle, Phase.RUNNING)
        await spawner.upkeep({"sim-1"})
        leap.by_s += spawner.settings.orphan_age_s + 1
        await spawner.upkeep({"sim-1"})
        assert len(spawner.mirror.pods) == 2
        await spawner.upkeep({"sim-1"})
        await reaches_end(spawner, nobodys)
        assert list(await lab.pods()) == ["sojourn-sim-1"]
        assert spawner.orphans_count == 1


async def reaches_end(spawner, handle):
    """Wait until a simulator's Pod has gone."""
    name = handle.place["pod"]
    await becomes(lambda: spawner.mirror.get(name) is None)


@conversation
async def one_of_two_claims_wins_a_warm_pod(lab):
    """Spec 5.5: a claim is a compare-and-swap; who loses starts a Pod of its own."""
    async with lab.spawner(pool=1) as one, lab.spawner(pool=1) as two:
        await one.upkeep(())
        await becomes(lambda: one.pool.ready_count == 1 and two.pool.ready_count == 1)
        handles = await asyncio.gather(one.create(spec_of(1)), two.create(spec_of(2)))
        warm = [handle for handle in handles if handle.simulator.startswith("warm-")]
        assert len(warm) == 1
        assert await one.attached(handles[0])
        assert await two.attached(handles[1])
        labels = (await lab.pod(str(warm[0].place["pod"])))["metadata"]["labels"]
        assert (labels[POOL_LABEL], labels[SESSION_LABEL]) == ("taken", warm[0].session)


@conversation
async def a_claim_asked_twice_is_the_same_pod(lab):
    """Spec 5.5: the claim token is the name that was asked for; a retry finds the first claim."""
    async with lab.spawner(pool=2) as spawner, lab.spawner(pool=2) as other:
        await spawner.upkeep(())
        await becomes(lambda: spawner.pool.ready_count == 2 and other.pool.ready_count == 2)
        assert await spawner.create(SPEC) == await other.create(SPEC)
        await becomes(lambda: spawner.pool.ready_count == 1)


@conversation
async def a_claim_whose_session_never_comes_goes_back(lab):
    """Spec 5.5, agones#607: a hold ends, and the Pod is ready for the next one."""
    leap = Leap()
    async with lab.spawner(leap, pool=1, hold_s=30.0) as spawner:
        await spawner.upkeep(())
        await becomes(lambda: spawner.pool.ready_count == 1)
        handle = await spawner.create(SPEC)
        assert handle.simulator.startswith("warm-")
        assert (await spawner.poll(handle)).phase == Phase.RUNNING
        await spawner.upkeep(())
        leap.by_s += 31
        await spawner.upkeep(())
        assert not await spawner.attached(handle)
        assert (await spawner.poll(handle)).phase == Phase.STOPPED
        labels = (await lab.pod(str(handle.place["pod"])))["metadata"]["labels"]
        assert (labels[POOL_LABEL], SESSION_LABEL in labels) == ("ready", False)


@conversation
async def a_broken_pod_of_the_pool_is_replaced(lab):
    """Spec 5.5: N ready ones, whatever happens to them."""
    leap = Leap()
    async with lab.spawner(leap, pool=2) as spawner:
        await spawner.upkeep(())
        await becomes(lambda: spawner.pool.ready_count == 2)
        broken = spawner.mirror.pods[0].name
        await lab.kubelet.fail(broken)
        await becomes(lambda: spawner.mirror.get(broken) is None)
        leap.by_s += spawner.pool.settings.retry_s
        await spawner.upkeep(())
        await becomes(lambda: spawner.pool.ready_count == 2)
        assert broken not in await lab.pods()


@conversation
async def a_pod_is_a_real_simulator(lab):
    """Spec 5.5: what the annotation says is what the process is told; SIGTERM ends it within the grace."""
    lab.kubelet.plan = "process"
    async with lab.spawner() as spawner:
        handle = await spawner.create(SPEC)
        status = await reaches(spawner, handle, Phase.RUNNING)
        channel = GrpcioChannel(status.endpoint, Secret(""))
        try:
            said = await channel.call("Status", pb.StatusRequest(), 10.0)
        finally:
            await channel.close()
        assert (said.simulator, said.session) == ("sim-1", "session-1")
        await spawner.stop(handle, 10.0)
        assert lab.kubelet.processes["sojourn-sim-1"].returncode == 0


FACTS = {
    "a name that is taken": ("POST", "pods", {"metadata": {"name": "one"}}, 409, "AlreadyExists"),
    "a label that none can be": (
        "POST",
        "pods",
        {"metadata": {"name": "two", "labels": {"sojourn/session": "no, no"}}},
        422,
        "Invalid",
    ),
    "a version that was": ("PATCH", "pods/one", {"metadata": {"resourceVersion": "1"}}, 409, "Conflict"),
    "another one's uid": ("PATCH", "pods/one", {"metadata": {"uid": "another"}}, 422, "Invalid"),
    "nobody": ("PATCH", "pods/nobody", {"metadata": {"labels": {"a": "b"}}}, 404, "NotFound"),
    "a deletion of another one": ("DELETE", "pods/one", {"preconditions": {"uid": "x"}}, 409, "Conflict"),
    "a deletion of a version": (
        "DELETE",
        "pods/one",
        {"preconditions": {"resourceVersion": "1"}},
        409,
        "Conflict",
    ),
    "a deletion of nobody": ("DELETE", "pods/nobody", {}, 404, "NotFound"),
}


@conversation
async def the_api_refuses_as_we_rely_on(lab):
    """API concepts, optimistic concurrency: the stub says what a real server says, to the status and the reason."""
    lab.kubelet.plan = "hang"
    pod = {"spec": {"containers": [{"name": "simulator", "image": "x"}]}}
    status, made = await lab.ask("POST", "pods", json={**pod, "metadata": {"name": "one"}})
    assert status == 201
    for why, (method, path, body, wanted, reason) in FACTS.items():
        document = {**pod, **body} if method == "POST" else body
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        status, said = await lab.ask(method, path, json=document, headers={"Content-Type": kind})
        assert (status, said["reason"]) == (wanted, reason), (why, said)
    assert (await lab.pod("one"))["metadata"]["uid"] == made["metadata"]["uid"]


@conversation
async def what_is_not_ours_is_left_alone(lab):
    """Two installations in one namespace know nothing of each other."""
    async with lab.spawner() as ours, lab.spawner(deployment="other", orphan_age_s=0.01) as theirs:
        handle = await ours.create(SPEC)
        await reaches(ours, handle, Phase.RUNNING)
        for _ in range(3):
            await theirs.upkeep(())
        assert await theirs.list() == []
        assert (await ours.poll(handle)).phase == Phase.RUNNING
