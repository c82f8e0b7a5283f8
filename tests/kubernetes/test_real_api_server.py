"""The Kubernetes driver before a real kube-apiserver, with the rights of deploy/base/roles.yaml and no more."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hollow_kubelet import HollowKubelet
from kubernetes_conversations import CONVERSATIONS
from kubernetes_lab import KubernetesLab
from kubernetes_server import ADMIN, ROOT, place_of, programs, serve

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.spawners.kubernetes_api import PodApi, TooOld
from sojourn.gateways.exchange.spawners.kubernetes_pods import selector


@contextlib.asynccontextmanager
async def real_lab(server, folder):
    """A namespace of its own, with the accounts and the role of deploy/, and a hollow node."""
    namespace = server.namespace()
    kubeconfig = server.kubeconfig(folder, namespace, server.account_token(namespace))
    async with HollowKubelet(server.url, ADMIN, namespace, tls=server.tls) as kubelet:
        yield KubernetesLab(server.url, kubeconfig, ADMIN, namespace, kubelet, tls=server.tls)


@pytest.mark.parametrize("talk", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_before_a_real_server(run, server, tmp_path, talk):
    """As the conversation's docstring says; the account's Role of deploy/ is enough for all of them."""

    async def work():
        async with real_lab(server, tmp_path) as lab:
            await talk(lab)

    run(work())


def test_a_real_server_forgets_old_versions(run, tmp_path):
    """API concepts, 410 Gone: what etcd has compacted is gone for watches and lists, and the driver knows the word."""

    async def work(server):
        async with real_lab(server, tmp_path) as lab:
            lab.kubelet.plan = "hang"
            api = PodApi(lab.settings())
            api.open()
            try:
                before = await api.list(selector("sojourn"))
                for name in ("one", "two"):
                    pod = {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
                    assert (await lab.ask("POST", "pods", json=pod))[0] == 201
                _, page = await lab.ask("GET", "pods?limit=1")
                await lab.label("one", pool="ready")
                server.compact()
                watch = api.watch(selector("sojourn"), before.version, 10.0)
                async with contextlib.aclosing(watch) as changes:
                    assert isinstance(await anext(changes), TooOld)
                status, said = await lab.ask("GET", f"pods?limit=1&continue={page['metadata']['continue']}")
                assert (status, said["reason"]) == (410, "Expired")
            finally:
                await api.close()

    # Its cache of what was last written would hide for a while what etcd has forgotten.
    with serve(programs(), "--watch-cache=false") as server:
        run(work(server))


FORBIDDEN = {
    "another namespace's Pods": ("GET", "/api/v1/namespaces/default/pods"),
    "all Pods": ("GET", "/api/v1/pods"),
    "Secrets": ("GET", "/api/v1/namespaces/{namespace}/secrets"),
    "ConfigMaps": ("GET", "/api/v1/namespaces/{namespace}/configmaps"),
    "a Pod's log": ("GET", "/api/v1/namespaces/{namespace}/pods/x/log"),
    "a shell in a Pod": ("GET", "/api/v1/namespaces/{namespace}/pods/x/exec?command=sh"),
    "a Pod's status": ("PATCH", "/api/v1/namespaces/{namespace}/pods/x/status"),
    "a whole Pod anew": ("PUT", "/api/v1/namespaces/{namespace}/pods/x"),
    "all Pods at one blow": ("DELETE", "/api/v1/namespaces/{namespace}/pods"),
    "Deployments": ("GET", "/apis/apps/v1/namespaces/{namespace}/deployments"),
    "roles": ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"),
    "tokens": ("POST", "/api/v1/namespaces/{namespace}/serviceaccounts/sojourn-exchange/token"),
    "nodes": ("GET", "/api/v1/nodes"),
}


@pytest.mark.parametrize(("method", "path"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_role_does_not_reach(server, method, path):
    """deploy/base/roles.yaml: six verbs on Pods of one namespace, and nothing else."""
    namespace = server.namespace()
    token = server.account_token(namespace)
    body = {} if method in ("PUT", "PATCH", "POST") else None
    status, said = server.ask(method, path.format(namespace=namespace), body, token=token)
    assert status == 403, said


def test_an_account_without_the_role_is_told_what_it_lacks(run, server, tmp_path):
    """The operator reads which right is missing and where it stands."""

    async def work():
        namespace = server.namespace()
        token = server.account_token(namespace, "sojourn-simulator")
        kubeconfig = server.kubeconfig(tmp_path, namespace, token)
        async with HollowKubelet(server.url, ADMIN, namespace, tls=server.tls) as kubelet:
            lab = KubernetesLab(server.url, kubeconfig, ADMIN, namespace, kubelet, tls=server.tls)
            with pytest.raises(BackendUnavailable, match=r"we may not GET Pods in .*deploy/.*cannot list"):
                async with lab.spawner():
                    pass

    run(work())


KNOWN = ("deployment.yaml", "service.yaml", "network-policies.yaml")
"""The other two kinds have versions that are younger than this server."""


@pytest.mark.parametrize("file", KNOWN)
def test_a_real_server_would_take_the_manifest(server, file):
    """deploy/base: validation and defaults of the server itself; a dry run keeps nothing."""
    namespace = server.namespace()
    for document in yaml.safe_load_all((ROOT / "deploy/base" / file).read_text(encoding="utf-8")):
        status, said = server.ask("POST", place_of(document, namespace) + "?dryRun=All", document)
        assert status == 201, said
