"""Tests before a real kube-apiserver: collected by `make test-kubernetes` only, which says where its programs are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes_server import KubernetesServer, programs, serve

# Not collected is not skipped: `make test` does not know these tests, and counts none of them.
collect_ignore_glob = [] if programs() else ["test_*.py"]


@pytest.fixture(scope="session")
def server() -> Iterator[KubernetesServer]:
    """One server for all tests; each takes a namespace of its own."""
    folder = programs()
    assert folder is not None
    with serve(folder) as started:
        yield started
