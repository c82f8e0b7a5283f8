"""The tables ``[exchange.kubernetes]`` and ``[exchange.kubernetes.pool]``: simulators as Pods.

Declares names, units, defaults and help; knows nothing of the API server or how the values are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sojourn.core.settings import BreakerSettings, Seconds, Settings

_OURS: Final = ("app.kubernetes.io/name", "app.kubernetes.io/managed-by")

LabelValue = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=40,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        title="a name (lower-case letters, digits, -)",
    ),
]
Quantity = Annotated[
    str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi)?$", title="a quantity such as 100m or 512Mi")
]


class WarmPoolSettings(Settings, frozen=True):
    """Simulators that wait ready, so that a session needs not wait for a Pod to start."""

    size_count: Annotated[int, Meta(ge=0, le=1_000, description="Pods that wait; 0 = no pool.")] = 0
    hold_s: Annotated[
        Seconds,
        Meta(description="A Pod that was claimed goes back if its session has not attached by then."),
    ] = 30.0
    owner_timeout_s: Annotated[
        Seconds,
        Meta(description="A Pod of the pool ends by itself without an owner for so long, claimed or not."),
    ] = 3_600.0
    retry_s: Annotated[
        Seconds, Meta(description="Pause after a Pod of the pool failed; grows while they keep failing.")
    ] = 5.0
    retry_max_s: Annotated[Seconds, Meta(description="Longest such pause.")] = 300.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what only several fields together can show to be wrong."""
        if self.retry_max_s < self.retry_s:
            yield "retry_max_s", str(self.retry_max_s), f"at least retry_s ({self.retry_s})"
        if self.owner_timeout_s <= self.hold_s:
            yield "owner_timeout_s", str(self.owner_timeout_s), f"more than hold_s ({self.hold_s})"


class KubernetesSettings(Settings, frozen=True):
    """Where the API server is, what a simulator's Pod is made of, and how long anything may take."""

    image: Annotated[
        str,
        Meta(min_length=1, description="Image of a simulator.", examples=["registry.example/sojourn:1.0"]),
    ]
    kubeconfig_file: Annotated[
        str, Meta(description="Kubeconfig; empty = the service account of the Pod that we run in.")
    ] = ""
    context: Annotated[str, Meta(description="Context of the kubeconfig; empty = its current one.")] = ""
    account_directory: Annotated[
        str, Meta(description="Where Kubernetes mounts the service account of a Pod.")
    ] = "/var/run/secrets/kubernetes.io/serviceaccount"
    namespace: Annotated[
        str, Meta(description="Namespace of the simulators; empty = that of the context or account.")
    ] = ""
    deployment: Annotated[
        LabelValue,
        Meta(description="Whose the Pods are; two installations in one namespace need two names."),
    ] = "sojourn"
    command: Annotated[
        tuple[str, ...], Meta(min_length=1, description="What a simulator's container runs.")
    ] = ("python", "-m", "sojourn.gateways.exchange.sim.main")
    replay_directory: Annotated[
        str, Meta(description="Directory of the image with prices for replay; empty = none.")
    ] = ""
    port: Annotated[int, Meta(ge=1, le=65_535, description="Port on which a simulator serves gRPC.")] = 7400
    image_pull_policy: Annotated[
        Literal["IfNotPresent", "Always", "Never"], Meta(description="As in a Pod.")
    ] = "IfNotPresent"
    image_pull_secrets: Annotated[
        tuple[str, ...], Meta(description="Names of Secrets that open the registry.")
    ] = ()
    service_account: Annotated[
        str, Meta(description="Account of the simulators; they get no token of it. Empty = default.")
    ] = ""
    cpu_request: Annotated[Quantity, Meta(description="CPU that is kept for one simulator.")] = "100m"
    cpu_limit: Annotated[Quantity, Meta(description="CPU that it may use at most.")] = "500m"
    memory_request: Annotated[Quantity, Meta(description="Memory that is kept for it.")] = "128Mi"
    memory_limit: Annotated[Quantity, Meta(description="Beyond it the kernel ends it.")] = "512Mi"
    labels: Annotated[
        dict[str, str], Meta(description="More labels of the Pods.", examples=[{"team": "training"}])
    ] = msgspec.field(default_factory=dict)
    annotations: Annotated[dict[str, str], Meta(description="More annotations of the Pods.")] = msgspec.field(
        default_factory=dict
    )
    node_selector: Annotated[dict[str, str], Meta(description="Labels of the nodes that may run them.")] = (
        msgspec.field(default_factory=dict)
    )
    priority_class: Annotated[str, Meta(description="Priority class of the Pods; empty = none.")] = ""
    simulators_count: Annotated[
        int, Meta(ge=1, description="Pods at once, those of the pool too; more are refused.")
    ] = 1_000
    start_timeout_s: Annotated[
        Seconds, Meta(description="A Pod that does not run by then has failed, and is deleted.")
    ] = 120.0
    stop_margin_s: Annotated[
        Seconds, Meta(description="After a stop's grace, until the Pod is removed without its node's word.")
    ] = 10.0
    cleanup_grace_s: Annotated[
        Seconds, Meta(description="Grace of a Pod that is deleted because it failed or is nobody's.")
    ] = 5.0
    orphan_age_s: Annotated[
        Seconds, Meta(description="A Pod younger than this is never taken for nobody's.")
    ] = 120.0
    request_timeout_s: Annotated[Seconds, Meta(description="One request to the API server.")] = 10.0
    attempts_count: Annotated[
        int, Meta(ge=1, le=20, description="How often a request is made that the server was too busy for.")
    ] = 4
    retry_s: Annotated[Seconds, Meta(description="First pause between them, on average half of it.")] = 0.25
    retry_max_s: Annotated[
        Seconds, Meta(description="Longest pause; a server that asks for more is unavailable.")
    ] = 10.0
    relist_s: Annotated[
        Seconds, Meta(description="All Pods are read anew so often, whatever the watch has told.")
    ] = 60.0
    watch_silence_s: Annotated[
        Seconds, Meta(description="A watch that tells nothing for so long is begun again.")
    ] = 30.0
    list_chunk_count: Annotated[int, Meta(ge=1, le=5_000, description="Pods per page of a list.")] = 500
    pool: WarmPoolSettings = WarmPoolSettings()
    breaker: BreakerSettings = BreakerSettings()

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what only several fields together can show to be wrong."""
        if self.retry_max_s < self.retry_s:
            yield "retry_max_s", str(self.retry_max_s), f"at least retry_s ({self.retry_s})"
        if self.pool.size_count >= self.simulators_count:
            yield "pool.size_count", str(self.pool.size_count), "less than simulators_count"
        if self.context and not self.kubeconfig_file:
            yield "context", repr(self.context), "a kubeconfig_file that has it"
        for table, names in (("labels", self.labels), ("annotations", self.annotations)):
            for name in names:
                if name.startswith("sojourn/") or name in _OURS:
                    yield f"{table}.{name}", repr(name), "a name that Sojourn does not set itself"
