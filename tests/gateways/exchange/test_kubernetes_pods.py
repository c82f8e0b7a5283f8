"""Pods in words, and what we ask for: no server."""

from __future__ import annotations

import json

import msgspec
import pytest
from hollow_kubelet import ended, running, waiting
from kubernetes_lab import DEFAULTS, SPEC

from sojourn.gateways.exchange.sim.settings import read_settings
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings, WarmPoolSettings
from sojourn.gateways.exchange.spawners.kubernetes_pods import (
    SETTINGS_ANNOTATION,
    PodSeen,
    check_label,
    flavour,
    manifest,
    pod_name,
    read_status,
)

SETTINGS = KubernetesSettings(**DEFAULTS)
SCHEDULED = {"type": "PodScheduled", "status": "True"}
GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}


def status_of(metadata=None, **status):
    """Return what a Pod with this status means."""
    document = {"metadata": {"name": "x", **(metadata or {})}, "status": status}
    return read_status(msgspec.convert(document, PodSeen), 7400)


@pytest.mark.parametrize(
    ("status", "phase", "endpoint", "words"),
    [
        ({}, "starting", "", "it waits for a node"),
        ({"conditions": [GATED]}, "starting", "", "it waits for a node (SchedulingGated)"),
        ({"conditions": [SCHEDULED]}, "starting", "", "it has a node and is being made"),
        (waiting("ErrImagePull"), "starting", "", "its image cannot be fetched (ErrImagePull)"),
        (waiting("SomethingNew"), "starting", "", "its container waits (SomethingNew)"),
        (waiting("ErrImageNeverPull"), "failed", "", "its image is not on the node and may not be fetched"),
        ({"phase": "Running"}, "starting", "", "it has been started and does not answer yet"),
        ({"phase": "Unknown"}, "starting", "", "its node does not answer (Unknown)"),
        (running("10.1.2.3"), "running", "10.1.2.3:7400", ""),
        (running("fd00::7"), "running", "[fd00::7]:7400", ""),
        (ended("Succeeded", 0, "Completed"), "stopped", "", "it ended by itself"),
        (ended("Failed", 137, "OOMKilled"), "failed", "", "it used more memory than it may (OOMKilled)"),
        (ended("Failed", 139, "Error"), "failed", "", "it was ended by signal 11"),
        (ended("Failed", 2, "Error"), "failed", "", "it ended with exit code 2"),
        ({"phase": "Failed", "reason": "Evicted"}, "failed", "", "it was evicted from its node (Evicted)"),
        ({"phase": "Failed"}, "failed", "", "it failed"),
        ({"phase": "Failed", "conditions": None, "containerStatuses": None}, "failed", "", "it failed"),
    ],
)
def test_every_status_has_a_phase_and_words(status, phase, endpoint, words):
    """Pod lifecycle: Spec 5.5 wants them for people."""
    found = status_of(**status)
    assert (found.phase, found.endpoint) == (phase, endpoint)
    assert words in found.detail


def test_a_pod_that_is_being_deleted_says_so_until_it_is_gone():
    """Pod lifecycle, termination: the container runs until the grace is over."""
    found = status_of({"deletionTimestamp": "2026-11-21T10:00:00Z"}, **running("10.1.2.3"))
    assert (found.phase, found.endpoint, found.detail) == ("running", "10.1.2.3:7400", "it is being stopped")


def test_what_was_given_up_has_failed_whatever_the_node_says():
    """One of us has written why; the node may not have noticed yet."""
    found = status_of({"annotations": {"sojourn/failure": "too late"}}, **running("10.1.2.3"))
    assert (found.phase, found.detail) == ("failed", "too late")


def test_a_field_of_a_type_that_we_do_not_know_makes_no_pod_unreadable():
    """A list is not lost for what we do not look at."""
    document = {"metadata": {"name": "x", "managedFields": 7}, "spec": "new", "status": {"phase": "Pending"}}
    assert msgspec.json.decode(json.dumps(document), type=PodSeen).name == "x"


def test_the_name_of_a_pod_comes_from_its_simulator_alone():
    """DNS-1123 label: the same for every try, different for every simulator."""
    assert pod_name("sojourn", "0190-ab") == "sojourn-0190-ab"
    strange = [pod_name("sojourn", name) for name in ("A", "a-", "x" * 63, "X" * 63)]
    assert len(set(strange)) == 4
    assert all(len(name) <= 63 and name == name.lower() for name in strange)


@pytest.mark.parametrize("name", ["", "no spaces", "-x", "x" * 64, "x\n", "a,b=c"])
def test_a_name_that_no_label_can_hold_is_refused_before_anybody_is_asked(name):
    """Labels: a selector must not be written by who names a session."""
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        check_label(name)


def test_the_manifest_is_one_that_a_restricted_namespace_takes():
    """Pod Security Standards, restricted; and no token of the account inside."""
    pod = msgspec.to_builtins(manifest(SETTINGS, SPEC, is_pooled=False))
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert (spec["automountServiceAccountToken"], spec["restartPolicy"]) == (False, "Never")


def test_the_simulator_reads_its_settings_from_the_annotation():
    """The downward API makes a file of it; the simulator's own reader takes it."""
    pod = manifest(SETTINGS, SPEC, is_pooled=False)
    settings = read_settings(pod.metadata.annotations[SETTINGS_ANNOTATION].encode(), "annotation")
    assert (settings.simulator, settings.session, settings.owner_timeout_s) == ("sim-1", "session-1", 60.0)
    assert settings.listen == "[::]:7400"
    path = pod.spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath
    assert path == f"metadata.annotations['{SETTINGS_ANNOTATION}']"


def test_simulators_that_differ_do_not_stand_in_for_each_other():
    """Spec 5.5: a pool serves what it is made of."""
    other_market = msgspec.structs.replace(SPEC, market=msgspec.structs.replace(SPEC.market, seed=2))
    other_image = msgspec.structs.replace(SETTINGS, image="x:2")
    assert len({flavour(SETTINGS, SPEC), flavour(SETTINGS, other_market), flavour(other_image, SPEC)}) == 3
    other_session = msgspec.structs.replace(SPEC, simulator="sim-2", session="session-2")
    assert flavour(SETTINGS, SPEC) == flavour(SETTINGS, other_session)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"retry_max_s": 0.01}, "retry_max_s"),
        ({"context": "x"}, "context"),
        ({"labels": {"sojourn/session": "x"}}, "labels.sojourn/session"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "labels.app.kubernetes.io/name"),
        ({"pool": WarmPoolSettings(size_count=5), "simulators_count": 5}, "pool.size_count"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes, key):
    """Settings.problems: key, found, wanted."""
    ((found, _, _),) = KubernetesSettings(**{**DEFAULTS, **changes}).problems()
    assert found == key


def test_a_pool_that_would_lose_what_it_holds_is_named():
    """A hold must not outlive the Pod."""
    ((key, _, _),) = WarmPoolSettings(owner_timeout_s=10.0, hold_s=10.0).problems()
    assert key == "owner_timeout_s"
