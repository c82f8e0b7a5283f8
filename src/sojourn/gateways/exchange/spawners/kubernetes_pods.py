"""Pods of simulators: what we ask for, and what one that we see means in words for people.

Writing uses lightkube's models, which the type checker reads; reading uses small ones of our own, so that a field that
we do not look at can never make a Pod unreadable. Knows nothing of requests, watches or time.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final

import msgspec
from lightkube.models import core_v1, meta_v1

from sojourn.gateways.exchange.sim.settings import ServiceSettings, write_settings
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings
from sojourn.gateways.exchange.spawners.spawner import Phase, SimulatorSpec, SimulatorStatus

NAME_LABEL: Final = "app.kubernetes.io/name"
MANAGER_LABEL: Final = "app.kubernetes.io/managed-by"
APPLICATION: Final = "sojourn-simulator"
MANAGER: Final = "sojourn"
DEPLOYMENT_LABEL: Final = "sojourn/deployment"
SIMULATOR_LABEL: Final = "sojourn/simulator"
SESSION_LABEL: Final = "sojourn/session"
POOL_LABEL: Final = "sojourn/pool"
CLAIM_LABEL: Final = "sojourn/claim"
FLAVOUR_LABEL: Final = "sojourn/flavour"
FAILURE_ANNOTATION: Final = "sojourn/failure"
SETTINGS_ANNOTATION: Final = "sojourn/settings"

CONTAINER: Final = "simulator"
SETTINGS_DIRECTORY: Final = "/etc/sojourn/simulator"
SETTINGS_FILE: Final = "settings.json"
POD_NAME_CHARACTERS: Final = 63
"""A Pod's name is its host name too; Kubernetes cuts that one."""

_POD_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\Z")
_EXIT_SIGNALS: Final = 128
"""An exit code above it means that a signal ended the container; docs.docker.com and every shell say so."""


class Pool:
    """Where a Pod of the warm pool stands: the value of its label."""

    READY: Final = "ready"
    HELD: Final = "held"
    TAKEN: Final = "taken"


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """Who a Pod is; ``resource_version`` changes with every write, and is compared, never ordered."""

    name: str
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """One of a Pod's conditions."""

    type: str
    status: str
    reason: str | None = None


class Reason(msgspec.Struct, frozen=True, rename="camel"):
    """Why a container waits or has ended."""

    reason: str | None = None
    exit_code: int = 0


class ContainerState(msgspec.Struct, frozen=True, rename="camel"):
    """At most one of them is there."""

    waiting: Reason | None = None
    terminated: Reason | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A container; ``started`` stays true once its startup probe has succeeded."""

    name: str
    ready: bool = False
    started: bool | None = None
    state: ContainerState | None = None


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What the node and the scheduler say."""

    phase: str = "Pending"
    reason: str | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None


class PodSeen(msgspec.Struct, frozen=True, rename="camel"):
    """A Pod as the API server tells it, as far as we look at it."""

    metadata: Metadata
    status: PodStatus = PodStatus()

    @property
    def name(self) -> str:
        """The Pod's name."""
        return self.metadata.name

    def label(self, name: str) -> str:
        """Return a label's value; empty if there is none."""
        return (self.metadata.labels or {}).get(name, "")

    @property
    def simulator(self) -> str:
        """The name of the simulator in it."""
        return self.label(SIMULATOR_LABEL)

    @property
    def session(self) -> str:
        """Whose it is."""
        return self.label(SESSION_LABEL)

    @property
    def failure(self) -> str:
        """Why one of us has given it up, in words; empty if nobody has."""
        return (self.metadata.annotations or {}).get(FAILURE_ANNOTATION, "")

    @property
    def is_ending(self) -> bool:
        """It is deleted, and will go when its node says so."""
        return self.metadata.deletion_timestamp is not None

    @property
    def is_waiting(self) -> bool:
        """It belongs to the pool, and to no session for good."""
        return self.label(POOL_LABEL) in (Pool.READY, Pool.HELD)


def pod_name(deployment: str, simulator: str) -> str:
    """Return the name of a simulator's Pod; the same for every try, so that a second one meets the first."""
    name = f"{deployment}-{simulator}"
    if len(name) <= POD_NAME_CHARACTERS and _POD_NAME.match(name):
        return name
    return f"{deployment}-{hashlib.sha256(simulator.encode()).hexdigest()[:20]}"


def check_label(name: str) -> str:
    """Return a name that may be a label's value.

    Raises: ValueError if it may not.
    """
    if len(name) > POD_NAME_CHARACTERS or not _LABEL_VALUE.match(name):
        raise ValueError(f"found {name[:80]!r}, wanted 1 to 63 letters, digits and hyphens")
    return name


def flavour(settings: KubernetesSettings, spec: SimulatorSpec) -> str:
    """Return what tells simulators apart that cannot stand in for each other: image, market, resources."""
    made_of = (settings.image, settings.command, settings.cpu_limit, settings.memory_limit, spec.market)
    return hashlib.sha256(msgspec.json.encode(made_of)).hexdigest()[:16]


def selector(deployment: str) -> str:
    """Return the label selector of an installation's simulators."""
    return f"{DEPLOYMENT_LABEL}={deployment},{NAME_LABEL}={APPLICATION}"


def manifest(settings: KubernetesSettings, spec: SimulatorSpec, *, is_pooled: bool) -> core_v1.Pod:
    """Return the Pod that is to run a simulator.

    Its restart policy is Never: a simulator whose process has ended has forgotten everything, and one that begins anew
    under the same name would lie. The startup probe is what makes it RUNNING, and asks the port, which the process
    opens last; gRPC's own probe is not understood by API servers before 1.24.
    """
    labels = {
        **settings.labels,
        NAME_LABEL: APPLICATION,
        MANAGER_LABEL: MANAGER,
        DEPLOYMENT_LABEL: settings.deployment,
        SIMULATOR_LABEL: check_label(spec.simulator),
        FLAVOUR_LABEL: flavour(settings, spec),
    }
    if spec.session:
        labels[SESSION_LABEL] = check_label(spec.session)
    if is_pooled:
        labels[POOL_LABEL] = Pool.READY
    service = ServiceSettings(
        simulator=spec.simulator,
        session=spec.session,
        listen=f"[::]:{settings.port}",
        market=spec.market,
        owner_timeout_s=spec.owner_timeout_s,
        replay_directory=settings.replay_directory,
    )
    annotations = {**settings.annotations, SETTINGS_ANNOTATION: write_settings(service).decode()}
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(
            name=pod_name(settings.deployment, spec.simulator), labels=labels, annotations=annotations
        ),
        spec=_pod_spec(settings),
    )


def _pod_spec(settings: KubernetesSettings) -> core_v1.PodSpec:
    probe_period_s = 1
    container = core_v1.Container(
        name=CONTAINER,
        image=settings.image,
        imagePullPolicy=settings.image_pull_policy,
        command=[*settings.command, "--settings", f"{SETTINGS_DIRECTORY}/{SETTINGS_FILE}"],
        ports=[core_v1.ContainerPort(name="grpc", containerPort=settings.port)],
        resources=core_v1.ResourceRequirements(
            requests={"cpu": settings.cpu_request, "memory": settings.memory_request},
            limits={"cpu": settings.cpu_limit, "memory": settings.memory_limit},
        ),
        startupProbe=core_v1.Probe(
            tcpSocket=core_v1.TCPSocketAction(port=settings.port),
            periodSeconds=probe_period_s,
            failureThreshold=max(1, int(settings.start_timeout_s // probe_period_s)),
        ),
        securityContext=core_v1.SecurityContext(
            allowPrivilegeEscalation=False,
            readOnlyRootFilesystem=True,
            capabilities=core_v1.Capabilities(drop=["ALL"]),
        ),
        volumeMounts=[core_v1.VolumeMount(name="settings", mountPath=SETTINGS_DIRECTORY, readOnly=True)],
    )
    return core_v1.PodSpec(
        containers=[container],
        restartPolicy="Never",
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        serviceAccountName=settings.service_account or None,
        imagePullSecrets=[core_v1.LocalObjectReference(name=name) for name in settings.image_pull_secrets]
        or None,
        nodeSelector=settings.node_selector or None,
        priorityClassName=settings.priority_class or None,
        securityContext=core_v1.PodSecurityContext(
            runAsNonRoot=True, seccompProfile=core_v1.SeccompProfile(type="RuntimeDefault")
        ),
        volumes=[
            core_v1.Volume(
                name="settings",
                downwardAPI=core_v1.DownwardAPIVolumeSource(
                    items=[
                        core_v1.DownwardAPIVolumeFile(
                            path=SETTINGS_FILE,
                            fieldRef=core_v1.ObjectFieldSelector(
                                fieldPath=f"metadata.annotations['{SETTINGS_ANNOTATION}']"
                            ),
                        )
                    ]
                ),
            )
        ],
    )


HOPELESS: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons to wait that no waiting mends."""

WAITS: Final = {
    "ContainerCreating": "its container is being made",
    "PodInitializing": "its container is being made",
    "ErrImagePull": "its image cannot be fetched",
    "ImagePullBackOff": "its image cannot be fetched",
    "ImageInspectError": "its image cannot be read",
    "InvalidImageName": "its image has a name that cannot be",
    "ErrImageNeverPull": "its image is not on the node and may not be fetched",
    "RegistryUnavailable": "the registry of its image does not answer",
    "CreateContainerConfigError": "something that its container refers to is missing",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be run",
}
"""Reasons of the node for a container that waits, in words. The node's own messages stay in the cluster: they name
machines and registries, and a user reads this."""

ENDS: Final = {
    "OOMKilled": "it used more memory than it may",
    "ContainerCannotRun": "its container cannot be run",
    "StartError": "its container cannot be run",
    "Evicted": "it was evicted from its node",
    "Preempted": "it gave way to something more important",
    "Preempting": "it gave way to something more important",
    "Shutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "NodeLost": "its node is lost",
    "NodeAffinity": "its node may not run it any more",
    "UnexpectedAdmissionError": "its node would not have it",
    "OutOfcpu": "its node had no CPU left for it",
    "OutOfmemory": "its node had no memory left for it",
    "DeadlineExceeded": "it ran for longer than it may",
}
"""Reasons of an end, in words."""


def read_status(pod: PodSeen, port: int) -> SimulatorStatus:
    """Say where the simulator in a Pod stands."""
    if pod.failure:
        return SimulatorStatus(phase=Phase.FAILED, detail=pod.failure)
    status = pod.status
    if status.phase == "Succeeded":
        return SimulatorStatus(phase=Phase.STOPPED, detail="it ended by itself")
    container = next((one for one in status.container_statuses or () if one.name == CONTAINER), None)
    state = (container.state if container else None) or ContainerState()
    if status.phase == "Failed":
        return SimulatorStatus(phase=Phase.FAILED, detail=_end_words(status, state))
    if status.phase == "Running" and container is not None and container.started and status.pod_ip:
        host = f"[{status.pod_ip}]" if ":" in status.pod_ip else status.pod_ip
        detail = "" if container.ready else "it does not answer its probe"
        return SimulatorStatus(
            phase=Phase.RUNNING,
            endpoint=f"{host}:{port}",
            detail="it is being stopped" if pod.is_ending else detail,
        )
    waiting = (state.waiting.reason if state.waiting else None) or ""
    if waiting in HOPELESS:
        return SimulatorStatus(phase=Phase.FAILED, detail=f"{WAITS[waiting]} ({waiting})")
    return SimulatorStatus(phase=Phase.STARTING, detail=_wait_words(pod, waiting))


def _wait_words(pod: PodSeen, waiting: str) -> str:
    if pod.is_ending:
        return "it is being stopped"
    if waiting:
        return f"{WAITS.get(waiting, 'its container waits')} ({waiting})"
    if pod.status.phase == "Running":
        return "it has been started and does not answer yet"
    if pod.status.phase == "Unknown":
        return "its node does not answer (Unknown)"
    conditions = {one.type: one for one in pod.status.conditions or ()}
    scheduled = conditions.get("PodScheduled")
    if scheduled is None:
        return "it waits for a node"
    if scheduled.status == "True":
        return "it has a node and is being made"
    if scheduled.reason == "Unschedulable":
        return "no node has room for it (Unschedulable)"
    return f"it waits for a node ({scheduled.reason})" if scheduled.reason else "it waits for a node"


def _end_words(status: PodStatus, state: ContainerState) -> str:
    reason = status.reason or (state.terminated.reason if state.terminated else None) or ""
    if reason in ENDS:
        return f"{ENDS[reason]} ({reason})"
    if state.terminated is not None and state.terminated.exit_code:
        code = state.terminated.exit_code
        if code > _EXIT_SIGNALS:
            return f"it was ended by signal {code - _EXIT_SIGNALS}"
        return f"it ended with exit code {code}"
    return f"it failed ({reason})" if reason else "it failed"
