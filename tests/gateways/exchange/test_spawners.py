"""Spawners: real child processes that start, end, are killed, are left and found again; and the two that need none."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from exchange_sim_lab import SESSION, Recorder, eventually, linked, resting, serving, taking

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.sim.link import LinkState, ask_status
from sojourn.gateways.exchange.spawners.child import ProcessName
from sojourn.gateways.exchange.spawners.inproc import InprocSettings, InprocSpawner
from sojourn.gateways.exchange.spawners.process import ProcessSettings, ProcessSpawner
from sojourn.gateways.exchange.spawners.spawner import (
    News,
    Phase,
    SimulatorHandle,
    SimulatorSpec,
    SimulatorStatus,
    Spawner,
)
from sojourn.gateways.exchange.spawners.static import StaticSettings, StaticSpawner

Run = Callable[[Coroutine[Any, Any, Any]], Any]

PARENT = """
import asyncio, json, sys
from sojourn.gateways.exchange.spawners.process import ProcessSettings, ProcessSpawner
from sojourn.gateways.exchange.spawners.spawner import SimulatorSpec

async def main(directory, dies_with_parent, waits):
    spawner = ProcessSpawner(ProcessSettings(directory=directory, dies_with_parent=dies_with_parent))
    await spawner.open()
    handle = await spawner.create(SimulatorSpec(simulator="sim-1", session="session-1"))
    async for status in spawner.progress(handle):
        if not waits:
            break
    print(json.dumps(spawner.get_state(handle)), flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main(sys.argv[1], sys.argv[2] == "dies", sys.argv[3] == "waits"))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a directory with a short name, as sockets need; what is left alive in it is killed."""
    with tempfile.TemporaryDirectory(prefix="sims-") as name:
        path = Path(name, "s")
        yield path
        for note in path.glob("*.json"):
            place = json.loads(note.read_bytes())["place"]
            if ProcessName(place["pid"], place["started"], place["boot"]).is_alive:
                os.kill(place["pid"], signal.SIGKILL)


@asynccontextmanager
async def processes(folder: Path, token: str = "", **settings: Any) -> AsyncIterator[ProcessSpawner]:
    made = ProcessSettings(directory=str(folder), **{"dies_with_parent": True, **settings})
    spawner = ProcessSpawner(made, Secret(token))
    await spawner.open()
    try:
        yield spawner
    finally:
        await spawner.close()


def spec(number: int = 1, **more: Any) -> SimulatorSpec:
    return SimulatorSpec(simulator=f"sim-{number}", session=SESSION, **more)


async def started(spawner: Spawner, wanted: SimulatorSpec) -> tuple[SimulatorHandle, SimulatorStatus]:
    """Start a simulator and wait for how that ends."""
    handle = await spawner.create(wanted)
    *_, status = [status async for status in spawner.progress(handle)]
    return handle, status


def name_of(handle: SimulatorHandle) -> ProcessName:
    place = handle.place
    return ProcessName(int(place["pid"]), int(place["started"]), str(place["boot"]))


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


# What holds for each driver


async def static_spawner(*endpoints: str, store: MemoryStore | None = None) -> StaticSpawner:
    """Return the driver of a pod; pods that have a store in common are given it."""
    if store is None:
        store = MemoryStore()
        await store.start()
    return StaticSpawner(StaticSettings(endpoints=endpoints), store.pool)


@asynccontextmanager
async def spawner_of(driver: str, folder: Path) -> AsyncIterator[Spawner]:
    if driver == "static":
        async with serving(session="") as service:
            spawner = await static_spawner(service.address)
            await spawner.open()
            yield spawner
            await spawner.close()
        return
    kinds: dict[str, Callable[[], Spawner]] = {
        "inproc": lambda: InprocSpawner(InprocSettings(speed=0.0)),
        "process": lambda: ProcessSpawner(ProcessSettings(directory=str(folder))),
        "process-tcp": lambda: ProcessSpawner(ProcessSettings(directory=str(folder), listen="tcp")),
    }
    spawner = kinds[driver]()
    await spawner.open()
    try:
        yield spawner
    finally:
        await spawner.close()


DRIVERS = pytest.mark.parametrize("driver", ["inproc", "process", "process-tcp", "static"])


@DRIVERS
def test_a_simulator_starts_is_used_and_ends(run: Run, folder: Path, driver: str) -> None:
    """Spec 5.5: create, progress, poll, list, stop; the endpoint leads to the simulator that was asked for."""

    async def main() -> None:
        async with spawner_of(driver, folder) as spawner:
            handle, status = await started(spawner, spec())
            assert status.phase == Phase.RUNNING
            assert await spawner.poll(handle) == status
            assert [(seen.handle.simulator, seen.status) for seen in await spawner.list()] == [
                ("sim-1", status)
            ]
            recorder = Recorder()
            async with linked(status.endpoint, recorder) as link:
                await link.submit(taking("a"))
                await recorder.caught_up(2)
                assert (await link.status()).session == SESSION
            await spawner.stop(handle, 5.0)
            assert (await spawner.poll(handle)).phase in (Phase.STOPPED, Phase.RUNNING)
            assert await spawner.list() == []
            await spawner.stop(handle, 5.0)  # gone already is fine

    run(main())


@DRIVERS
def test_a_simulator_is_created_once_however_often_it_is_asked_for(
    run: Run, folder: Path, driver: str
) -> None:
    """spawner.py: one that exists already under this name is that one."""

    async def main() -> None:
        async with spawner_of(driver, folder) as spawner:
            handles = [await spawner.create(spec()) for _ in range(3)]
            assert handles[0] == handles[1] == handles[2]
            await started(spawner, spec())
            assert (await spawner.create(spec())).simulator == "sim-1"
            assert len(await spawner.list()) == 1

    run(main())


@DRIVERS
def test_a_state_finds_the_simulator_again(run: Run, folder: Path, driver: str) -> None:
    """Spec 5.5: get_state and load_state, plain JSON."""

    async def main() -> None:
        async with spawner_of(driver, folder) as spawner:
            handle, status = await started(spawner, spec())
            state = json.loads(json.dumps(spawner.get_state(handle)))
            again = await spawner.load_state(state)
            assert (again.simulator, again.session) == ("sim-1", SESSION)
            assert (await spawner.poll(again)).endpoint == status.endpoint
            for wrong in ({}, {**state, "driver": "other"}, {**state, "simulator": 5}):
                with pytest.raises(ConfigError):
                    await spawner.load_state(wrong)

    run(main())


@DRIVERS
def test_a_watch_tells_what_is_and_what_changes(run: Run, folder: Path, driver: str) -> None:
    """spawner.py: every simulator that is known, then each change, until the spawner closes."""

    async def main() -> None:
        seen: list[tuple[str, str]] = []

        async def watch() -> None:
            async for handle, status in spawner.watch():
                seen.append((handle.simulator, status.phase))

        async with asyncio.TaskGroup() as tasks:
            async with spawner_of(driver, folder) as spawner:
                handle, _ = await started(spawner, spec())
                task = tasks.create_task(watch())
                await eventually(lambda: seen)
                assert seen == [("sim-1", Phase.RUNNING)]
                await spawner.stop(handle, 5.0)
                await eventually(lambda: len(seen) == 2)
                assert seen[1] == ("sim-1", Phase.STOPPED)
            await asyncio.wait_for(task, 5)  # it ends with the spawner

    run(main())


@pytest.mark.parametrize("driver", ["inproc", "process", "static"])
def test_no_more_than_so_many(run: Run, folder: Path, driver: str) -> None:
    """Every bound is a setting: LimitExceeded, and what runs goes on."""

    async def main() -> None:
        async with serving() as service:
            static = await static_spawner(service.address)
            kinds: dict[str, Callable[[], Spawner]] = {
                "inproc": lambda: InprocSpawner(InprocSettings(simulators_count=1)),
                "process": lambda: ProcessSpawner(ProcessSettings(directory=str(folder), simulators_count=1)),
                "static": lambda: static,
            }
            spawner = kinds[driver]()
            await spawner.open()
            handle, status = await started(spawner, spec(1))
            with pytest.raises(LimitExceeded):
                await spawner.create(spec(2))
            assert await spawner.poll(handle) == status
            await spawner.stop(handle, 5.0)
            assert (await started(spawner, spec(2)))[1].phase == Phase.RUNNING
            await spawner.close()

    run(main())


# Child processes


def test_a_simulator_leaves_no_cache_of_code(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of its log holds for every file: a cache that it cuts off stops every later process of this Python."""
    code = folder.parent / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text("import a_module_that_is_there")
    (code / "a_module_that_is_there.py").write_text("X = 1")
    monkeypatch.setenv("PYTHONPATH", str(code))

    async def main() -> None:
        async with processes(folder) as spawner:
            assert (await started(spawner, spec()))[1].phase == Phase.RUNNING
        assert sorted(path.name for path in code.iterdir()) == [
            "a_module_that_is_there.py",
            "sitecustomize.py",
        ]

    run(main())


def test_a_simulator_that_cannot_start_says_why(run: Run, folder: Path) -> None:
    """process.py: FAILED with the last lines of its output; nothing of it is left."""

    async def main() -> None:
        async with processes(folder) as spawner:
            _, status = await started(spawner, spec(market=MarketSettings(maker_fee_ppm=5)))
            assert status.phase == Phase.FAILED
            assert "ended with status 2" in status.detail
            assert "wanted 0 <= maker <= taker" in status.detail
            assert await spawner.list() == []

    run(main())
    assert not files_in(folder)


def test_a_simulator_that_does_not_start_in_time_is_failed_and_killed(run: Run, folder: Path) -> None:
    """Spec 5.5: start timeout means FAILED and removed, never pending for ever."""
    folder.mkdir()
    os.mkfifo(folder.with_name("slow.csv"))  # which it waits for

    async def main() -> None:
        replay = str(folder.parent)
        async with processes(folder, start_timeout_s=0.6, replay_directory=replay) as spawner:
            handle, status = await started(spawner, spec(market=MarketSettings(replay_file="slow.csv")))
            assert status.phase == Phase.FAILED
            assert "could not be reached within 0.6 s" in status.detail
            await eventually(lambda: not name_of(handle).is_alive)
            await eventually(lambda: not spawner._running)
            assert (await spawner.poll(handle)).phase == Phase.FAILED

    folder.chmod(0o700)
    run(main())
    assert not files_in(folder)


def limits_of(handle: SimulatorHandle) -> dict[str, list[str]]:
    lines = Path(f"/proc/{handle.place['pid']}/limits").read_text(encoding="ascii").splitlines()
    return {" ".join(line.split()[:3]): line.split() for line in lines}


def test_a_simulator_has_limits(run: Run, folder: Path) -> None:
    """process.py: rlimits of memory, processor time, files and log, set from outside."""

    async def main() -> None:
        async with processes(folder, cpu_s=1000, files_count=100, log_bytes=4096) as spawner:
            handle, _ = await started(spawner, spec())
            found = limits_of(handle)
            assert found["Max address space"][3:5] == [str(1024**3)] * 2
            assert found["Max cpu time"][3:5] == ["1000"] * 2
            assert found["Max open files"][3:5] == ["100"] * 2
            assert found["Max file size"][3:5] == ["4096"] * 2
            assert found["Max core file"][4:6] == ["0"] * 2

    run(main())


def test_too_little_memory_is_a_failed_start(run: Run, folder: Path) -> None:
    """A limit that is hit ends the simulator and nobody else."""

    async def main() -> None:
        async with processes(folder, memory_bytes=24 * 1024**2) as spawner:
            _, status = await started(spawner, spec())
            assert status.phase == Phase.FAILED

    run(main())


def test_a_killed_simulator_is_failed(run: Run, folder: Path) -> None:
    """kill -9: told at once, by the signal's number; its files are removed."""

    async def main() -> None:
        async with processes(folder) as spawner:
            handle, _ = await started(spawner, spec())
            os.kill(int(handle.place["pid"]), signal.SIGKILL)
            with spawner.news.reader() as reader:
                while (seen := await reader.next()).status.phase != Phase.FAILED:
                    pass
            assert "signal 9" in seen.status.detail
            assert not files_in(folder)

    run(main())


def test_a_simulator_that_ends_by_itself_is_stopped(run: Run, folder: Path) -> None:
    """Spec 5.5: without an owner it ends by itself; that is no failure."""

    async def main() -> None:
        async with processes(folder) as spawner:
            handle, status = await started(spawner, spec(owner_timeout_s=0.3))
            assert status.phase == Phase.RUNNING
            await eventually(lambda: not spawner._running)
            assert (await spawner.poll(handle)).phase == Phase.STOPPED

    run(main())


def test_a_simulator_that_does_not_obey_is_killed(run: Run, folder: Path) -> None:
    """stop: asked first, killed after the grace."""

    async def main() -> None:
        async with processes(folder) as spawner:
            handle, _ = await started(spawner, spec())
            os.kill(int(handle.place["pid"]), signal.SIGSTOP)
            await spawner.stop(handle, 0.1)
            assert not name_of(handle).is_alive

    run(main())


def test_nothing_secret_is_on_a_command_line_or_in_the_environment(run: Run, folder: Path) -> None:
    """Spec: settings by a pipe; whoever lists processes sees nothing."""

    async def main() -> None:
        async with processes(folder, "t0ken") as spawner:
            handle, status = await started(spawner, spec())
            proc = Path(f"/proc/{handle.place['pid']}")
            for file in ("cmdline", "environ"):
                assert b"t0ken" not in (proc / file).read_bytes()
            assert "t0ken" not in json.dumps(spawner.get_state(handle))
            with pytest.raises(BackendUnavailable, match="token"):
                await ask_status(status.endpoint)
            assert (await ask_status(status.endpoint, token=Secret("t0ken"))).simulator == "sim-1"

    run(main())


class Parent:
    """Another process that spawns a simulator; ``state`` is what it stores about it."""

    def __init__(self, folder: Path, dies: str, waits: str = "waits") -> None:
        command = [sys.executable, "-c", PARENT, str(folder), dies, waits]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.state = json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def test_a_simulator_dies_with_its_parent(run: Run, folder: Path) -> None:
    """process.py: by default the kernel kills them when we die, however we die."""

    async def main() -> None:
        handle = SimulatorHandle(**parent.state)
        assert name_of(handle).is_alive
        parent.kill()
        await eventually(lambda: not name_of(handle).is_alive)
        assert files_in(folder)
        async with processes(folder) as spawner:
            assert not files_in(folder)  # what it left is swept
            assert (await spawner.poll(handle)).phase == Phase.STOPPED

    with Parent(folder, "dies") as parent:
        run(main())


def test_a_simulator_that_goes_on_is_taken_over(run: Run, folder: Path) -> None:
    """process.py: with dies_with_parent = false another process finds it by its state, and loses no event."""

    async def main() -> None:
        first, second = Recorder(), Recorder()
        async with processes(folder, dies_with_parent=False) as spawner:
            handle = await spawner.load_state(parent.state)
            status = await spawner.poll(handle)
            assert status.phase == Phase.RUNNING
            async with linked(status.endpoint, first) as link:
                for number in range(5):
                    await link.submit(resting(f"a{number}"))
                await first.caught_up(5)
                parent.kill()
                await link.submit(resting("b"))
                await first.caught_up(6)
            assert first.states == [LinkState.UP, LinkState.CLOSED]
        assert name_of(handle).is_alive  # our spawner has closed, and it goes on
        async with processes(folder, dies_with_parent=False) as spawner:
            (seen,) = await spawner.list()
            assert (seen.handle.simulator, seen.handle.session) == ("sim-1", SESSION)
            async with linked(seen.status.endpoint, second, 2, after_seq=4):
                await second.caught_up(6)
            assert [event.seq for event in second.events] == [5, 6]
            await spawner.stop(seen.handle, 5.0)
            assert not name_of(handle).is_alive
            assert await spawner.list() == []

    with Parent(folder, "lives") as parent:
        run(main())
    assert not files_in(folder)


def test_a_simulator_is_taken_over_while_it_starts(run: Run, folder: Path) -> None:
    """Whoever started it is gone before it said where it is: it is looked for where it will be."""
    with Parent(folder, "lives", "goes") as parent:
        pass

    async def main() -> None:
        async with processes(folder, dies_with_parent=False) as spawner:
            handle = await spawner.load_state(parent.state)
            *_, status = [status async for status in spawner.progress(handle)]
            assert status.phase == Phase.RUNNING
            assert (await ask_status(status.endpoint)).simulator == "sim-1"
            await spawner.stop(handle, 5.0)

    run(main())


def test_closing_ends_what_we_have_started_and_no_other(run: Run, folder: Path) -> None:
    """Several of our processes share a directory; each ends only its own."""

    async def main() -> None:
        other = SimulatorHandle(**parent.state)
        async with processes(folder) as spawner:
            mine, _ = await started(spawner, spec(2))
            assert {seen.handle.simulator for seen in await spawner.list()} == {"sim-1", "sim-2"}
        assert not name_of(mine).is_alive
        assert name_of(other).is_alive

    with Parent(folder, "lives") as parent:
        run(main())


def test_a_pid_that_belongs_to_somebody_else_by_now_is_left_alone(run: Run, folder: Path) -> None:
    """child.py: a process is named by pid, start and boot; the kernel gives pids again."""

    async def main() -> None:
        name = ProcessName.of(bystander.pid)
        for wrong in ({"started": name.started + 1}, {"boot": "another"}):
            place = {"pid": name.pid, "started": name.started, "boot": name.boot, "endpoint": "unix:/x"}
            handle = SimulatorHandle(simulator="sim-1", driver="process", place={**place, **wrong})
            async with processes(folder) as spawner:
                assert (await spawner.poll(handle)).phase == Phase.STOPPED
                await spawner.stop(handle, 0.1)
        assert bystander.poll() is None

    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as bystander:
        run(main())
        bystander.stdin.close()


def test_a_directory_that_others_may_enter_is_refused(run: Run, folder: Path) -> None:
    """process.py: whoever reaches a socket in it is one of us."""
    folder.mkdir()
    folder.chmod(0o755)
    long = folder.parent / ("x" * 100)
    link = folder.parent / "link"
    link.symlink_to("/tmp")
    for path in (folder, long, link, Path("/proc/none")):
        with pytest.raises(ConfigError, match=r"process\.directory"):
            run(ProcessSpawner(ProcessSettings(directory=str(path))).open())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "x" * 64, "-x", "a\n"])
def test_a_simulators_name_is_no_path(run: Run, folder: Path, name: str) -> None:
    """It becomes the name of files."""

    async def main() -> None:
        async with processes(folder) as spawner:
            with pytest.raises(ConfigError):
                await spawner.create(SimulatorSpec(simulator=name))

    run(main())


def test_without_pidfds_processes_are_watched_all_the_same(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """child.py: kernels and sandboxes without pidfd_open; nobody waits for what a poll can find."""

    def none(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", none)

    async def main() -> None:
        async with processes(folder) as spawner:
            handle, status = await started(spawner, spec())
            assert status.phase == Phase.RUNNING
            await spawner.stop(handle, 5.0)
            handle, _ = await started(spawner, spec(2))
            os.kill(int(handle.place["pid"]), signal.SIGKILL)
            await eventually(lambda: not spawner._running)
            assert "signal 9" in (await spawner.poll(handle)).detail

    run(main())


# The others


def test_static_says_when_nobody_is_there(run: Run) -> None:
    """static.py: BackendUnavailable, for it may come back; it is not ours to call it ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"

    async def main() -> None:
        spawner = await static_spawner(endpoint, "unix:/nowhere")
        for number in (1, 2):
            handle = await spawner.create(spec(number))
            with pytest.raises(BackendUnavailable):
                await spawner.poll(handle)

    run(main())


def test_two_pods_never_give_one_endpoint_to_two_sessions(run: Run) -> None:
    """static.py: what is given away is in the database; who comes second takes another one, or waits."""

    async def main() -> None:
        store = MemoryStore()
        await store.start()
        first, second = [await static_spawner("a:1", "a:2", "a:3", store=store) for _ in range(2)]
        handles = await asyncio.gather(*(pod.create(spec(n)) for n, pod in enumerate([first, second, first])))
        assert {handle.place["endpoint"] for handle in handles} == {"a:1", "a:2", "a:3"}
        with pytest.raises(LimitExceeded):
            await second.create(spec(9))
        assert await second.create(spec(0)) == handles[0]  # the pod before died with the answer
        assert len(await first.list()) == len(await second.list()) == 3
        await second.stop(handles[0], 1.0)
        given = await first.create(spec(9))
        assert given.place == handles[0].place
        await first.stop(handles[0], 1.0)  # gone already, and somebody else's by now
        with pytest.raises(LimitExceeded):
            await second.create(spec(10))

    run(main())


def test_an_endpoint_that_nobody_wants_any_more_is_free_again(run: Run) -> None:
    """static.py, upkeep: seen twice, for one that was given away a moment ago may not be known as wanted yet."""

    async def main() -> None:
        store = MemoryStore()
        await store.start()
        old = await static_spawner("a:1", "a:2", store=store)
        for number in (1, 2):
            await old.create(spec(number))
        await old.upkeep({"sim-2"})
        assert len(await old.list()) == 2
        await old.upkeep({"sim-2"})
        assert [seen.handle.simulator for seen in await old.list()] == ["sim-2"]
        new = await static_spawner("a:2", store=store)
        await new.upkeep({"sim-2"})
        assert [row.endpoint for row in await store.pool.list()] == ["a:2"]
        with pytest.raises(LimitExceeded):
            await new.create(spec(3))

    run(main())


def test_an_endpoint_of_another_configuration_is_alive_as_long_as_it_answers(run: Run) -> None:
    """static.py: while pods are restarted one by one with another list, sessions go on; what is gone is STOPPED."""

    async def main() -> None:
        async with serving(session="") as service:
            old = await static_spawner(service.address)
            new = await static_spawner("unix:/nowhere")
            handle = await old.create(spec())
            assert (await new.poll(handle)).phase == Phase.RUNNING
        status = await new.poll(handle)
        assert (status.phase, "configured" in status.detail) == (Phase.STOPPED, True)

    run(main())


def test_inproc_simulators_end_with_the_spawner(run: Run) -> None:
    """inproc.py: they end with us, whatever is configured."""

    async def main() -> None:
        spawner = InprocSpawner()
        await spawner.open()
        handle, status = await started(spawner, spec())
        recorder = Recorder()
        async with linked(status.endpoint, recorder):
            await recorder.until(lambda: recorder.states)
            await spawner.close()
            await recorder.until(lambda: LinkState.ENDED in recorder.states)
        assert (await spawner.poll(handle)).phase == Phase.STOPPED
        with pytest.raises(LimitExceeded):
            await spawner.create(spec(2))

    run(main())


def test_inproc_reads_no_files(run: Run) -> None:
    """inproc.py: the file would be read in the daemon itself."""

    async def main() -> None:
        spawner = InprocSpawner()
        await spawner.open()
        for market in (MarketSettings(replay_file="x.csv"), MarketSettings(maker_fee_ppm=9)):
            with pytest.raises(ConfigError):
                await spawner.create(spec(market=market))
        await spawner.close()

    run(main())


def test_news_are_conflated_for_who_is_slow(run: Run) -> None:
    """spawner.py: a slow reader misses what lies between, never where a simulator stands last."""

    async def main() -> None:
        news = News()
        handles = [SimulatorHandle(simulator=f"s{number}", driver="test") for number in range(3)]
        with news.reader() as reader:
            for phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPED):
                for handle in handles:
                    news.tell(handle, SimulatorStatus(phase=phase))
                    news.tell(handle, SimulatorStatus(phase=phase))
            read = [await reader.next() for _ in handles]
            assert [(one.handle.simulator, one.status.phase) for one in read] == [
                (f"s{number}", Phase.STOPPED) for number in range(3)
            ]
            news.close()
            assert await reader.next() is None
        with suppress(StopIteration), news.reader() as late:
            assert (await late.next()).status.phase == Phase.STOPPED

    run(main())
