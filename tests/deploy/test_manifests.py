"""deploy/: every manifest is one that Kubernetes knows, and what refers to something finds it.

The schema is lightkube's models, which are generated from Kubernetes' own OpenAPI. What kustomize makes of the overlay
is looked at where a kubectl is on the PATH; without one that test does not exist.
"""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml
from lightkube.models import (
    apps_v1,
    autoscaling_v2,
    core_v1,
    networking_v1,
    policy_v1,
    rbac_v1,
)

from sojourn.config import load_text
from sojourn.config.soundness import file_problems, warnings_of
from sojourn.errors import ConfigError
from sojourn.gateways.exchange.spawners.kubernetes_pods import APPLICATION, NAME_LABEL

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy/base"
PRODUCTION = ROOT / "deploy/overlays/production"
MODELS = {
    ("v1", "Namespace"): core_v1.Namespace,
    ("v1", "ConfigMap"): core_v1.ConfigMap,
    ("v1", "Service"): core_v1.Service,
    ("v1", "ServiceAccount"): core_v1.ServiceAccount,
    ("apps/v1", "Deployment"): apps_v1.Deployment,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): autoscaling_v2.HorizontalPodAutoscaler,
    ("networking.k8s.io/v1", "NetworkPolicy"): networking_v1.NetworkPolicy,
    ("policy/v1", "PodDisruptionBudget"): policy_v1.PodDisruptionBudget,
    ("rbac.authorization.k8s.io/v1", "Role"): rbac_v1.Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): rbac_v1.RoleBinding,
}
SECRETS = {
    "admin.token": "t" * 32,
    "database.dsn": "postgresql://exchange:pw@db.example.net/exchange",
    "valkey.url": "rediss://exchange:pw@valkey.example.net:6379/0",
}
"""The Secret's files, as the how-to makes them."""
ENDS_WITHIN_S = 5
"""What terminationGracePeriodSeconds has beyond the drain."""


def read(folder):
    """Return all documents that a folder's kustomization names, itself left out."""
    names = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    files = [folder / name for name in names if name.endswith(".yaml")]
    return [one for file in files for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def of_kind(kind, documents=None):
    """Return the manifests of a kind by name."""
    found = [one for one in documents or read(BASE) if one["kind"] == kind]
    return {one["metadata"]["name"]: one for one in found}


def missing(found, written, where=""):
    """Yield what was written and is not in what the schema has taken."""
    if isinstance(written, dict):
        for key, value in written.items():
            if not isinstance(found, dict) or key not in found:
                yield f"{where}.{key}"
            else:
                yield from missing(found[key], value, f"{where}.{key}")
    elif isinstance(written, list) and isinstance(found, list):
        for number, (one, other) in enumerate(zip(found, written, strict=True)):
            yield from missing(one, other, f"{where}[{number}]")


def unknown_fields(document):
    """Return the fields of a manifest that its kind does not have; a wrong type raises."""
    model = MODELS[document["apiVersion"], document["kind"]]
    return list(missing(msgspec.to_builtins(msgspec.convert(document, model)), document))


ALL = [*read(BASE), *read(PRODUCTION)]


@pytest.mark.parametrize("document", ALL, ids=[f"{one['kind']} {one['metadata']['name']}" for one in ALL])
def test_a_manifest_has_only_fields_that_its_kind_has(document):
    """The schema of the Kubernetes API: a misspelled field is ignored there, and a wrong type refused."""
    emptied = {key: value for key, value in document.items() if value not in ({}, [])}
    assert unknown_fields(emptied) == []


def test_a_misspelled_field_would_be_found():
    """The check itself."""
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": []}}
    assert unknown_fields(document) == [".spec.port"]


def test_every_file_of_the_base_is_listed():
    """A manifest that no kustomization names is never applied."""
    for folder in (BASE, PRODUCTION):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        named = [*listed["resources"], *(one["path"] for one in listed.get("patches", ()))]
        files = {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert files <= set(named)


def test_labels_meet_their_selectors():
    """Service, budget and policies find the Deployment's Pods; the simulators' policy finds what the driver makes."""
    deployment = of_kind("Deployment")["sojourn-exchange"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    policies = of_kind("NetworkPolicy")
    ours = [
        deployment["selector"]["matchLabels"],
        deployment["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        of_kind("Service")["sojourn-exchange"]["spec"]["selector"],
        of_kind("PodDisruptionBudget")["sojourn-exchange"]["spec"]["selector"]["matchLabels"],
        policies["sojourn-exchange"]["spec"]["podSelector"]["matchLabels"],
        policies["sojourn-simulator"]["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
    ]
    assert all(wanted.items() <= labels.items() for wanted in ours)
    simulators = {NAME_LABEL: APPLICATION}
    assert policies["sojourn-simulator"]["spec"]["podSelector"]["matchLabels"] == simulators
    egress = policies["sojourn-exchange"]["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"]
    assert egress == simulators


def settings_of(folder):
    """Return the configuration of a folder, as TOML says it."""
    return tomllib.loads((folder / "sojourn.toml").read_text(encoding="utf-8"))


def test_ports_are_the_same_everywhere():
    """Container, probes, Service, policies and configuration name the same three ports."""
    settings = settings_of(BASE)
    (container,) = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert settings["exchange"]["listeners"][0]["address"] == f"[::]:{ports['http']}"
    assert settings["admin"]["address"] == f"[::]:{ports['admin']}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert of_kind("Service")["sojourn-exchange"]["spec"]["ports"][0]["targetPort"] == "http"
    policies = of_kind("NetworkPolicy")
    ingress = policies["sojourn-exchange"]["spec"]["ingress"]
    assert {one["ports"][0]["port"] for one in ingress} == set(ports.values())
    simulator = settings["exchange"]["kubernetes"]["port"]
    assert policies["sojourn-simulator"]["spec"]["ingress"][0]["ports"][0]["port"] == simulator
    assert policies["sojourn-exchange"]["spec"]["egress"][0]["ports"][0]["port"] == simulator


def test_names_that_are_referred_to_exist():
    """Accounts, role, configuration, the autoscaler's target; the Secret is made by hand and documented."""
    accounts = of_kind("ServiceAccount")
    pod = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] in accounts
    assert settings_of(BASE)["exchange"]["kubernetes"]["service_account"] in accounts
    binding = of_kind("RoleBinding")["sojourn-exchange"]
    assert binding["roleRef"]["name"] in of_kind("Role")
    assert [one["name"] for one in binding["subjects"]] == [pod["serviceAccountName"]]
    target = of_kind("HorizontalPodAutoscaler")["sojourn-exchange"]["spec"]["scaleTargetRef"]
    assert target["name"] in of_kind("Deployment")
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert {one["name"] for one in pod["containers"][0]["volumeMounts"]} == set(volumes)
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
    assert volumes["config"]["configMap"]["name"] == base["configMapGenerator"][0]["name"]
    page = (ROOT / "docs/howto/run-on-kubernetes.md").read_text(encoding="utf-8")
    assert f"secret generic {volumes['secrets']['secret']['secretName']}" in page


def test_the_pod_may_drain_before_it_is_killed():
    """Spec 5.6: the drain's deadline is the grace less 5 s; and the overlay's configuration says the same."""
    pod = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]
    for folder in (BASE, PRODUCTION):
        drain_s = settings_of(folder)["exchange"]["limits"]["drain_timeout_s"]
        assert pod["terminationGracePeriodSeconds"] == drain_s + ENDS_WITHIN_S


def test_the_role_has_the_driver_verbs_and_no_others():
    """What tests/kubernetes/ shows before a real server, and the stub verb by verb."""
    (rule,) = of_kind("Role")["sojourn-exchange"]["rules"]
    assert rule["resources"] == ["pods"]
    assert set(rule["verbs"]) == {"create", "get", "list", "watch", "patch", "delete"}


def test_nothing_runs_as_root_or_writes_to_its_image():
    """Pod Security Standards, restricted: what the overlay's namespace enforces."""
    pod = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


POD = {"POD_NAME": "sojourn-7d9f-x2x4z", "POD_IP": "10.1.2.3"}
"""What the Deployment puts into a Pod's environment."""


@pytest.fixture
def checked(tmp_path):
    """Return what ``sojourn check`` says of a folder's configuration, whose secrets lie where the Pod has them."""
    for name, text in SECRETS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)

    def check(folder, environ=None):
        text = (folder / "sojourn.toml").read_text(encoding="utf-8")
        settings = load_text(
            text.replace("/etc/sojourn-secrets", str(tmp_path)), "sojourn.toml", POD | (environ or {})
        )
        return [
            *map(str, file_problems(settings)),
            *warnings_of(settings, datetime.datetime.now(datetime.UTC)),
        ]

    return check


def test_the_overlay_has_nothing_to_mend(checked):
    """`sojourn check`: no problem, and nothing that is hardly meant."""
    assert checked(PRODUCTION) == []


def test_the_base_lacks_the_issuer_and_nothing_else(checked):
    """Whose tokens are believed is for an overlay to say; a placeholder here would be somebody's issuer."""
    with pytest.raises(ConfigError) as caught:
        checked(BASE)
    assert [(one.table, one.key) for one in caught.value.problems] == [("exchange.auth", "jwks_url")]
    issuer = {"SOJOURN__EXCHANGE__AUTH__JWKS_URL": "https://login.example.net/jwks"}
    assert checked(BASE, issuer) == []


def test_the_overlay_says_what_the_base_says():
    """A whole file stands for the base's; what is in both is the same, but for image and size."""
    base, production = (settings_of(folder)["exchange"] for folder in (BASE, PRODUCTION))
    for exchange in (base, production):
        for own in ("image", "pool"):
            del exchange["kubernetes"][own]
    assert {name: production[name] for name in base if name != "http"} == {
        name: base[name] for name in base if name != "http"
    }
    assert base["http"].items() <= production["http"].items()


def test_a_pod_is_known_by_what_kubernetes_calls_it():
    """Every variable that the configuration names is one that the Deployment gives, and the other way round."""
    (container,) = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]["containers"]
    given = {one["name"] for one in container["env"]}
    for folder in (BASE, PRODUCTION):
        text = (folder / "sojourn.toml").read_text(encoding="utf-8")
        assert set(re.findall(r"\$\{env:(\w+)\}", text)) == given == set(POD)
        assert settings_of(folder)["exchange"]["pod"] == {
            "name": "${env:POD_NAME}",
            "address": "${env:POD_IP}:8080",
        }


def test_every_secret_of_the_configuration_is_documented():
    """The files that ${file:...} names are the keys of the Secret that the page makes."""
    text = (BASE / "sojourn.toml").read_text(encoding="utf-8")
    keys = re.findall(r"\$\{file:/etc/sojourn-secrets/([\w.]+)\}", text)
    assert sorted(keys) == sorted(SECRETS)
    page = (ROOT / "docs/howto/run-on-kubernetes.md").read_text(encoding="utf-8")
    assert all(f"--from-file={key}" in page for key in keys)


def test_gateway_and_simulators_run_the_same_image():
    """One image, another command: kustomize renames the one, the configuration names the other."""
    overlay = yaml.safe_load((PRODUCTION / "kustomization.yaml").read_text(encoding="utf-8"))
    (image,) = overlay["images"]
    wanted = f"{image['newName']}:{image['newTag']}"
    assert settings_of(PRODUCTION)["exchange"]["kubernetes"]["image"] == wanted
    (container,) = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image["name"] == settings_of(BASE)["exchange"]["kubernetes"]["image"]


# The image

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")


def test_the_image_is_built_from_what_is_there():
    """Each file that is copied exists, and .dockerignore lets it through."""
    allowed = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in allowed


def test_the_image_installs_extras_that_the_project_has():
    """pyproject.toml: what is in brackets behind the dot."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "exchange" in extras.split(",")


def test_the_result_has_no_tools_and_no_root():
    """Two stages; the last one copies what was built, installs nothing, and names its user by number."""
    *_, last = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    assert "-slim-" in last.splitlines()[0]
    assert not re.search(r"\b(apt-get|pip install|gcc|make)\b", last)
    (user,) = re.findall(r"^USER (.+)$", last, re.MULTILINE)
    pod = of_kind("Deployment")["sojourn-exchange"]["spec"]["template"]["spec"]
    assert user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    ports = {str(one["containerPort"]) for one in pod["containers"][0]["ports"]} | {"7400"}
    (exposed,) = re.findall(r"^EXPOSE (.+)$", last, re.MULTILINE)
    assert set(exposed.split()) == ports


def kubectl():
    """Return a kubectl whose kustomize knows the fields that we use; the one of Debian 12 is too old."""
    program = shutil.which("kubectl")
    if program is None:
        return None
    asked = [program, "version", "--client", "--output=json"]
    said = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=30)
    return program if '"kustomizeVersion": "v5' in said.stdout else None


KUBECTL = kubectl()

if KUBECTL is not None:

    def test_kustomize_makes_valid_manifests_of_the_overlay():
        """kubectl kustomize: names, namespace, image, and the configuration's hash everywhere."""
        rendered = subprocess.run(
            [KUBECTL, "kustomize", str(PRODUCTION)], check=True, capture_output=True, text=True, timeout=60
        )
        documents = [one for one in yaml.safe_load_all(rendered.stdout) if one]
        for document in documents:
            emptied = {key: value for key, value in document.items() if value not in ({}, [])}
            assert unknown_fields(emptied) == [], document["metadata"]["name"]
            assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "sojourn"
        pod = of_kind("Deployment", documents)["sojourn-exchange"]["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == "registry.example.net/sojourn:1.0.0"
        (config,) = of_kind("ConfigMap", documents)
        assert pod["volumes"][0]["configMap"]["name"] == config
        (subject,) = of_kind("RoleBinding", documents)["sojourn-exchange"]["subjects"]
        assert subject["namespace"] == "sojourn"
