"""Damaged packets and noise for a live TACACS+ server, and what the server looks like before and after.

Seeded, so that a run can be repeated. Everything goes over loopback connections that are written to at once and
half-closed; the server answers what it likes and closes. Hashes are made cheap (bcrypt, cost 4) so that the time
goes into packets and not into passwords.
"""

from __future__ import annotations

import asyncio
import gc
import random
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import msgspec
import psutil
import tacacs_lab as labs
from tacacs_lab import author, command, pap, record, settings, start, typed

from sojourn.core.connection import Connection
from sojourn.core.secret import Secret
from sojourn.core.session import Session
from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.config import Accounting, FileSink, TacacsSettings
from sojourn.gateways.tacacs.messages import AuthenStart, AuthenType, Flag
from sojourn.gateways.tacacs.wire import encode_body, encode_packet

PACKETS_PER_CONNECTION = 4
"""Few, because one that no key opens ends what a connection takes; a good one goes before them."""
NOISE_PER_CONNECTION_BYTES = 4_096
CONNECTIONS_AT_ONCE = 32
FULL_PACKETS_COUNT = 200_000
FULL_NOISE_BYTES = 10_000_000
_HEADER = struct.Struct("!BBBBII")


class Figures(NamedTuple):
    """What one half of a run cost and left behind."""

    packets: int
    noise_bytes: int
    connections: int
    replies_bytes: int
    seconds: float
    cpu_seconds: float
    rss_bytes: int
    objects: int


def cheap_settings(folder: Path) -> TacacsSettings:
    """Return the laboratory's settings with hashes that cost a millisecond."""
    hashed = bcrypt.hashpw(labs.PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    people = tuple(
        labs.user(name, group, enable=None, may_change_password=True)
        for name, group in (("ana", "ops"), ("ben", "guests"))
    )
    people = tuple(msgspec.structs.replace(one, password=Secret(hashed)) for one in people)
    sink = FileSink(name="records", path=str(folder / "records.jsonl"), fsync="never", rotate_bytes=0)
    return settings(folder, users=people, accounting=Accounting(files=(sink,)))


def valid_packets() -> list[bytes]:
    """Return a packet of every kind that a client may begin a session with, and some that continue one."""
    secret = labs.PASSWORD.encode()
    challenge = bytes(range(16))
    messages: list[tuple[Any, int]] = [
        (command("show", "version"), 1),
        (pap(), 1),
        (start(), 1),
        (start(name=""), 1),
        (start(AuthenType.CHAP, "ana", mschap.chap_data(7, challenge, secret)), 1),
        (start(AuthenType.MSCHAP, "ana", mschap.mschap_v1_data(7, challenge[:8], secret)), 1),
        (
            start(
                AuthenType.MSCHAPV2,
                "ana",
                mschap.mschap_v2_data(7, challenge, challenge, user="ana", secret=secret),
            ),
            1,
        ),
        (start(action=2), 1),
        (start(action=2, name=""), 1),
        (command("show", "interfaces", "brief"), 1),
        (command("reload"), 1),
        (author("service=shell", "cmd="), 1),
        (author("service=ppp", "protocol=ip", "addr*192.0.2.1"), 1),
        (record("task_id=1", "start_time=1700000000", "service=shell", "cmd=show version <cr>"), 1),
        (record("task_id=1", "elapsed_time=60", flags=4), 1),
        (record("task_id=1", flags=8), 1),
        (record("task_id=1", flags=10), 1),
    ]
    numbered = list(enumerate(messages, start=0x1000))
    # What the user types goes to the logins and changes of password that were begun on the same connection.
    for number, (message, _) in tuple(numbered):
        if isinstance(message, AuthenStart) and message.authen_type == AuthenType.ASCII:
            numbered += [(number, (typed(text), seq_no)) for seq_no, text in ((3, "ana"), (5, labs.PASSWORD))]
    return [
        encode_packet(
            labs.version_of(message),
            labs._TYPES[type(message)],
            seq_no,
            Flag.SINGLE_CONNECT,
            number,
            encode_body(message),
            labs.KEY,
        )
        for number, (message, seq_no) in numbered
    ]


def damaged(chooser: random.Random, original: bytes) -> bytes:
    """Return a packet with one byte changed, cut out, put in, or the end missing."""
    randrange = chooser.randrange
    packet = bytearray(original)
    position = randrange(len(packet))
    way = randrange(16)
    if way == 0:
        del packet[position]
    elif way == 1:
        packet.insert(position, randrange(256))
    elif way == 2:
        del packet[position:]
    else:
        packet[position] ^= 1 + randrange(255)
    return bytes(packet)


def stories(chooser: random.Random, originals: list[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield a good packet for the beginning of a connection, and valid ones to damage for the rest of it.

    Every other story begins a login, and its first damaged packet is what the user types there.
    """
    greeting = originals[0]
    logins = [
        packet for packet in originals if packet[1:3] == b"\x01\x01" and packet[12:] and packet[0] == 0xC0
    ]
    answers = {packet[4:8]: packet for packet in originals if packet[2] == 3}
    while True:
        rest = chooser.choices(originals, k=PACKETS_PER_CONNECTION)
        if chooser.randrange(2):
            login = chooser.choice(logins)
            yield login, [answers[login[4:8]], *rest[1:]]
        else:
            yield greeting, rest


def noise(chooser: random.Random) -> Iterator[bytes]:
    """Yield bytes that are nothing, and bytes behind headers that say what they are."""
    randrange, randbytes = chooser.randrange, chooser.randbytes
    while True:
        if randrange(4) == 0:
            yield randbytes(randrange(1, NOISE_PER_CONNECTION_BYTES))
            continue
        pieces, size = [], 0
        while size < NOISE_PER_CONNECTION_BYTES:
            body = randbytes(randrange(300))
            kind = randrange(1, 4) if randrange(8) else randrange(256)
            header = _HEADER.pack(
                0xC0 | (randrange(4) == 0),
                kind,
                1 if randrange(4) else randrange(256),
                4 if randrange(8) else randrange(256),
                randrange(1 << 32) if randrange(2) else randrange(8),
                len(body),
            )
            pieces.append(header + body)
            size += 12 + len(body)
        yield b"".join(pieces)


async def one_connection(port: int, greeting: bytes, data: bytes) -> int:
    """Have a greeting answered, write bytes, end our side, read until the end; return how many bytes came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        async with asyncio.timeout(4 * labs.WITHIN_S):
            if greeting:
                writer.write(greeting)
                count += len(await reader.read(65_536))
            writer.write(data)
            writer.write_eof()
            while answer := await reader.read(65_536):
                count += len(answer)
    except (ConnectionError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
    finally:
        writer.transport.abort()
    return count


async def half(lab: labs.Lab, chooser: random.Random, packets_count: int, noise_bytes: int) -> Figures:
    """Send half of everything, wait until the server is empty, and measure it."""
    originals = valid_packets()
    plots, nothing = stories(chooser, originals), noise(chooser)
    began, cpu_began = time.perf_counter(), time.process_time()
    batches: list[tuple[bytes, bytes]] = []
    for done in range(0, packets_count, PACKETS_PER_CONNECTION):
        greeting, packets = next(plots)
        bad = [damaged(chooser, packet) for packet in packets[: packets_count - done]]
        batches.append((greeting, b"".join(bad)))
    sent = 0
    while sent < noise_bytes:
        data = next(nothing)
        batches.append((originals[0] if len(batches) % 2 else b"", data))
        sent += len(data)
    chooser.shuffle(batches)
    waiting = iter(batches)
    answered = 0

    async def device() -> None:
        nonlocal answered
        for opening, data in waiting:
            count = await one_connection(lab.port, opening, data)
            answered += count

    async with asyncio.TaskGroup() as devices:
        for _ in range(CONNECTIONS_AT_ONCE):
            devices.create_task(device())
    await lab.until_idle()
    lab.server.events.flush()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    connections = len(batches)
    batches.clear()
    gc.collect()
    return Figures(
        packets_count,
        sent,
        connections,
        answered,
        seconds,
        cpu_seconds,
        psutil.Process().memory_info().rss,
        sum(isinstance(one, (Session, Connection, asyncio.Task)) for one in gc.get_objects()),
    )


async def fuzz(
    folder: Path, packets_count: int, noise_bytes: int, seed: int
) -> tuple[list[Figures], Counter[str]]:
    """Run two halves against one server; return their figures and how often each event happened."""
    counts: Counter[str] = Counter()
    chooser = random.Random(seed)
    async with labs.running(cheap_settings(folder)) as lab:
        lab.server.events.remove_view(lab.view)
        lab.server.events.add_view(
            lambda batch: (
                counts.update(event.kind.name for event in batch),
                lab.events.extend(event for event in batch if event.kind.name in labs.BUGS),
            )
        )
        figures = [
            await half(lab, chooser, packets_count // 2, noise_bytes // 2),
            await half(lab, chooser, packets_count // 2, noise_bytes // 2),
        ]
        async with lab.wire() as wire:
            assert (await wire.ask(command("show"))).status == 1
    assert lab.server.events.dropped == 0
    return figures, counts
