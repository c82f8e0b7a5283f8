"""How sessions and simulators live and end, without any database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import ConfigError
from sojourn.gateways.exchange.ids import IdMaker, is_id
from sojourn.gateways.exchange.lifecycle import (
    FINAL_SIMULATOR_STATES,
    REJECT,
    REPLACE,
    SESSION_TRANSITIONS,
    SIMULATOR_TRANSITIONS,
    Admitted,
    DevicePolicy,
    DeviceRefusal,
    Expiry,
    ExpiryCause,
    PolicyKind,
    SessionEvent,
    SessionState,
    SimulatorState,
    Timeouts,
    admit_device,
    device_policy,
    expiry,
    session_sources,
    simulator_sources,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHARE_2 = DevicePolicy(PolicyKind.SHARE, 2)
LIVE = [SessionState.NEW, SessionState.ACTIVE, SessionState.DETACHED]


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_nothing_leaves_ended_and_every_live_state_can_end() -> None:
    """Section 5.2: NEW -> ACTIVE <-> DETACHED -> ENDED(reason)."""
    assert not any(state is SessionState.ENDED for state, _ in SESSION_TRANSITIONS)
    assert session_sources(SessionEvent.END) == {*LIVE}
    assert session_sources(SessionEvent.DETACH) == {SessionState.ACTIVE, SessionState.DETACHED}


def test_a_simulator_goes_forward_only_and_final_states_are_final() -> None:
    """Section 5.2: REQUESTED -> STARTING -> RUNNING -> STOPPING -> STOPPED | FAILED."""
    order = list(SimulatorState)
    for source, targets in SIMULATOR_TRANSITIONS.items():
        assert all(order.index(target) >= order.index(source) for target in targets)
        assert (source in targets) is (source not in FINAL_SIMULATOR_STATES)
    assert not SIMULATOR_TRANSITIONS[SimulatorState.STOPPED]
    assert not SIMULATOR_TRANSITIONS[SimulatorState.FAILED]
    assert simulator_sources(SimulatorState.FAILED) == set(order) - FINAL_SIMULATOR_STATES


@pytest.mark.parametrize("text", ["replace", "reject", "share:1", "share:100"])
def test_a_policy_is_written_as_it_is_read(text: str) -> None:
    """The database keeps the policy as text."""
    assert str(device_policy(text)) == text


@pytest.mark.parametrize(
    "text", ["", "share", "share:", "share:0", "share:101", "share:-1", "share:²", "replace:1", "Replace"]
)
def test_a_policy_that_is_none_is_a_configuration_error(text: str) -> None:
    """The operator is told what there is."""
    with pytest.raises(ConfigError, match="share:N"):
        device_policy(text)


@pytest.mark.parametrize("policy", [REPLACE, REJECT, SHARE_2], ids=str)
@pytest.mark.parametrize("state", LIVE)
def test_a_device_that_is_in_a_session_may_always_come_back(
    policy: DevicePolicy, state: SessionState
) -> None:
    """Section 5.3: POST of the same device gives the same session."""
    assert admit_device(policy, state, ("phone",), "phone") == Admitted(("phone",), ())


@pytest.mark.parametrize("state", LIVE)
def test_under_replace_the_newest_device_has_the_session(state: SessionState) -> None:
    """Section 5.2: the old socket gets `replaced`; session and simulator are kept."""
    assert admit_device(REPLACE, state, ("phone",), "desk") == Admitted(("desk",), ("phone",))


@pytest.mark.parametrize("state", [SessionState.NEW, SessionState.ACTIVE])
def test_under_reject_the_first_device_keeps_the_session(state: SessionState) -> None:
    """Section 5.2: device policy `reject`."""
    assert admit_device(REJECT, state, ("phone",), "desk") is DeviceRefusal.OTHER_DEVICE


def test_under_share_as_many_devices_as_the_policy_says_may_be_in_a_session() -> None:
    """Section 5.2: device policy `share:N`."""
    assert admit_device(SHARE_2, SessionState.ACTIVE, ("phone",), "desk") == Admitted(("phone", "desk"), ())
    full = admit_device(SHARE_2, SessionState.ACTIVE, ("phone", "desk"), "tablet")
    assert full is DeviceRefusal.DEVICES_FULL
    again = admit_device(SHARE_2, SessionState.ACTIVE, ("phone", "desk"), "phone")
    assert again == Admitted(("desk", "phone"), ())


@pytest.mark.parametrize("policy", [REJECT, SHARE_2], ids=str)
def test_when_nobody_is_there_the_oldest_device_makes_room(policy: DevicePolicy) -> None:
    """A user whose phone has died is not locked out of the session until it expires."""
    devices = ("phone", "desk")[: policy.devices_count]
    decision = admit_device(policy, SessionState.DETACHED, devices, "tablet")
    assert decision == Admitted((*devices[1:], "tablet"), ("phone",))


@given(
    st.sampled_from([REPLACE, REJECT, SHARE_2, DevicePolicy(PolicyKind.SHARE, 3)]),
    st.sampled_from(LIVE),
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=5).map(tuple),
    st.sampled_from("abcdef"),
)
def test_a_decision_loses_no_device_and_fits_the_policy(
    policy: DevicePolicy, state: SessionState, devices: tuple[str, ...], device: str
) -> None:
    """Whoever was in the session stays or is told to leave; a new device is the newest."""
    decision = admit_device(policy, state, devices, device)
    if isinstance(decision, DeviceRefusal):
        assert device not in devices
        assert policy.kind is not PolicyKind.REPLACE
        return
    assert decision.devices[-1] == device
    assert {*decision.devices} | {*decision.replaced} == {*devices, device}
    assert not {*decision.devices} & {*decision.replaced}
    if device not in devices:
        assert len(decision.devices) <= policy.devices_count


def test_the_first_clock_that_runs_out_ends_a_session() -> None:
    """Section 5.2: idle_timeout, detached_timeout and max_age are separate."""
    timeouts = Timeouts(idle_timeout_s=100, detached_timeout_s=50, max_age_s=1000)
    assert timeouts.expires_at(NOW) == later(1000)
    connected = expiry(timeouts, active_at=NOW, detached_at=None, expires_at=later(1000))
    assert connected == Expiry(later(100), ExpiryCause.IDLE)
    detached = expiry(timeouts, active_at=later(40), detached_at=later(20), expires_at=later(1000))
    assert detached == Expiry(later(70), ExpiryCause.DETACHED)
    old = expiry(timeouts, active_at=later(990), detached_at=None, expires_at=later(1000))
    assert old == Expiry(later(1000), ExpiryCause.MAX_AGE)


def test_a_timeout_of_0_is_for_ever() -> None:
    """Each of the three may be switched off."""
    never = Timeouts(idle_timeout_s=0, detached_timeout_s=0, max_age_s=0)
    assert never.expires_at(NOW) is None
    assert never.cutoffs(NOW) == (None, None)
    assert expiry(never, active_at=NOW, detached_at=NOW, expires_at=None) is None


def test_a_warning_comes_before_the_end_and_not_earlier_than_it_should() -> None:
    """Section 5.2: a warning 60 s before cull."""
    end = Expiry(later(100), ExpiryCause.IDLE)
    assert end.warning_s(later(39), 60) is None
    assert end.warning_s(later(40), 60) == 60
    assert end.warning_s(later(99), 60) == 1
    assert end.warning_s(later(100), 60) is None
    assert not end.is_due(later(99))
    assert end.is_due(later(100))


def test_ids_are_uuids_of_version_7_that_show_their_time() -> None:
    """RFC 9562 section 5.7: 48 bits of unix milliseconds, version 7, variant 10."""
    text = IdMaker(lambda: NOW)()
    made = uuid.UUID(text)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == int(NOW.timestamp() * 1000)
    assert str(made) == text
    assert is_id(text)


@pytest.mark.parametrize("text", ["", "x", "\0", str(uuid.UUID(int=0)), str(uuid.UUID(int=0)).upper()])
def test_what_is_no_id_is_known_without_asking_a_database(text: str) -> None:
    """Paths of requests hold anything; a database refuses some of it."""
    assert not is_id(text)
    assert not is_id(IdMaker(lambda: NOW)() + "\n")


@given(st.lists(st.integers(-2000, 2000), min_size=1, max_size=200), st.booleans())
def test_each_id_is_greater_than_the_one_before_whatever_the_clock_does(
    steps: list[int], is_high: bool
) -> None:
    """RFC 9562 section 6.2: monotonic, also when the clock goes back or the counter runs over."""
    moments = iter(NOW + timedelta(milliseconds=step) for step in steps)
    random = (lambda bits: (1 << bits) - 1) if is_high else (lambda _: 0)
    make = IdMaker(lambda: next(moments), random)
    ids = [make() for _ in steps]
    assert ids == sorted(set(ids))
    assert all(map(is_id, ids))


def test_a_counter_that_runs_over_borrows_from_the_future() -> None:
    """RFC 9562 section 6.2: on overflow the time may be incremented ahead of the clock."""
    make = IdMaker(lambda: NOW, lambda _: 0)
    first = make()
    make._counter = (1 << 42) - 1
    second = make()
    assert uuid.UUID(second).int >> 80 == (uuid.UUID(first).int >> 80) + 1
