# SPDX-License-Identifier: Apache-2.0
"""Checks the chart and the kustomizations with the real tools: Helm's SDK, `kubectl kustomize`, the schemas of the Kubernetes API.

    manifests.py KUBECTL [--update]

Called by `cargo xtask deploy`. `--update` writes the kustomization's base, which is the chart rendered, anew.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parent.parent
CHART = DEPLOY / "helm/nodemesh"
BASE = DEPLOY / "kustomize/base/nodemesh.yaml"
OVERLAYS = sorted((DEPLOY / "kustomize/overlays").iterdir())
# The oldest and the newest release that Chart.yaml allows and whose schemas there are.
VERSIONS = ["1.27", "1.37"]
# Kinds of operators, whose schemas are not part of Kubernetes.
CUSTOM = {"ServiceMonitor", "PrometheusRule", "Certificate"}
# Groups of examples that are not part of Kubernetes; files without one are settings.
FOREIGN = {"", "nodemesh.io", "keda.sh"}

ETCD = {"kind": "etcd", "endpoints": ["etcd-0.etcd:2379", "etcd-1.etcd:2379"], "secret": "etcd-client"}
SERVICE = {
    "apiVersion": "nodemesh.io/v1alpha1",
    "kind": "Service",
    "metadata": {"name": "llama", "namespace": "models"},
    "spec": {"addresses": ["10.240.0.1"], "ports": [{"port": 8000}], "backends": [{"address": "10.0.0.1", "port": 8000}]},
}
# Values that must render, by name.
GOOD = {
    "defaults": {},
    "insecure": {"control": {"insecure": True}},
    "kubernetes": {"control": {"replicas": 2, "store": {"kind": "kubernetes"}}},
    "etcd": {"control": {"replicas": 3, "store": ETCD, "dns": {"enabled": True}}},
    "everything": {
        "tls": {"certManager": {"enabled": True}},
        "monitoring": {part: {"enabled": True, "labels": {"release": "x"}} for part in ["serviceMonitor", "rules", "dashboard"]},
        "agent": {
            "cgroup": "/kubepods.slice",
            "excludeCgroups": ["kubepods.slice/x"],
            "locality": "eu/a",
            "capacity": {"services": 65536, "backends": 1048576, "meteredBackends": 100, "connections": 1000000},
            "extraEnv": [{"name": "NODEMESH_ACCESS_LOG", "value": "json"}],
            "http": {"address": "127.0.0.1", "port": 9999},
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"a": "b"},
        },
        "image": {"tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
        "control": {"podAnnotations": {"a": "b"}, "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
    },
    "files": {"agent": {"source": "files", "resources": [SERVICE]}, "control": {"enabled": False}},
    "elsewhere": {"agent": {"control": ["https://mesh.example.net:15010"]}, "control": {"enabled": False}},
    "without policy": {"networkPolicy": {"enabled": False}, "agent": {"enabled": False}},
}
# Values that must be refused, with a word of the message.
BAD = {
    "typo": ({"agnet": {}}, "agnet"),
    "port": ({"agent": {"http": {"port": 0}}}, "port"),
    "source": ({"agent": {"source": "kubernetes"}}, "source"),
    "two processes on one file": ({"control": {"replicas": 2}}, "replicas"),
    "etcd without members": ({"control": {"store": {"kind": "etcd"}}}, "endpoints"),
    "token in clear": ({"control": {"access": {"tokens": [{"name": "a", "role": "admin", "sha256": "secret"}]}}}, "sha256"),
    "agents without a control plane": ({"control": {"enabled": False}}, "control"),
    "another kind of document": ({"agent": {"resources": [{"apiVersion": "v1", "kind": "Pod", "metadata": {}}]}}, "apiVersion"),
}

problems = []


def expect(holds, message):
    if not holds:
        problems.append(message)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def validate(where, found):
    """Each document against the schemas of the API, unknown fields included."""
    for document in found:
        if document["kind"] in CUSTOM:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as error:  # pylint: disable=broad-except
                problems.append(f"{where}: {document['kind']} {document['metadata']['name']}, Kubernetes {version}: {error}")
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    expect(len(names) == len(set(names)), f"{where}: a name is there twice: {names}")


def only(found, kind):
    return next(document for document in found if document["kind"] == kind)


def lint():
    found = helm_python.chart.lint(CHART, strict=True)
    # 1 is a hint: that there is no icon.
    expect(all(message["severity"] <= 1 for message in found["messages"]), f"helm lint: {found['messages']}")
    expect(not found["errors"] and found["total_charts_linted"] == 1, f"helm lint: {found}")


def render(chart, values, release="nodemesh"):
    rendered = chart.render(values=values, name=release, namespace="nodemesh")
    texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
    return [document for text in texts for document in documents(text)]


def check_chart(chart):
    for name, values in GOOD.items():
        found = render(chart, values)
        validate(f"chart, {name}", found)
    longest = render(chart, {}, release="a-release-with-a-name-that-is-as-long-as-helm-allows")
    validate("chart, long name", longest)
    for name, (values, word) in BAD.items():
        try:
            chart.validate_schema(values)
            problems.append(f"chart: values of `{name}` are accepted")
        except helm_python.HelmError as error:
            expect(word in str(error), f"chart: `{name}` is refused without naming {word}: {error}")


def check_promises(chart):
    """What the chart promises and no schema knows."""
    found = render(chart, {})
    agent = only(found, "DaemonSet")["spec"]["template"]["spec"]
    capabilities = agent["containers"][0]["securityContext"]["capabilities"]
    expect(capabilities["drop"] == ["ALL"], "the agent keeps capabilities")
    expect(capabilities["add"] == ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_PTRACE"], f"capabilities: {capabilities}")
    expect("privileged" not in json.dumps(agent), "the agent is privileged")
    control = only(found, "Deployment")["spec"]["template"]["spec"]
    expect(control["securityContext"]["runAsNonRoot"], "the control plane may be root")
    for pod in [agent, control]:
        expect(pod["automountServiceAccountToken"] is False, "a token that nobody needs")
        expect(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], "a root file system that can be written")
        expect(all(pod["containers"][0].get(f"{probe}Probe") for probe in ["startup", "liveness", "readiness"]), "a probe is missing")
    etcd = render(chart, GOOD["etcd"])
    expect(only(etcd, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1, "no disruption budget")
    expect(not any(document["kind"] == "PersistentVolumeClaim" for document in etcd), "a volume beside etcd")
    cluster = render(chart, GOOD["kubernetes"])
    pod = only(cluster, "Deployment")["spec"]["template"]["spec"]
    expect(pod["automountServiceAccountToken"] is True, "no token for the API server")
    expect("NODEMESH_CONTROL_ADDRESS_RANGE" not in json.dumps(pod), "an address range beside the cluster's")
    expect(not any(document["kind"] == "PersistentVolumeClaim" for document in cluster), "a volume beside the cluster")
    for kind in ["Role", "ClusterRole"]:
        expect("*" not in json.dumps(only(cluster, kind)["rules"]), f"a {kind} for everything")
    expect(not any("Role" in document["kind"] for document in found), "roles that nobody needs")
    everything = render(chart, GOOD["everything"])
    rules = {document["metadata"]["name"].removeprefix("nodemesh-"): document["spec"] for document in everything if document["kind"] == "PrometheusRule"}
    for name in ["alerts", "recording", "control-alerts"]:
        source = yaml.safe_load((DEPLOY / f"prometheus/{name}.yaml").read_text())
        expect(rules.get(name) == source, f"the rules {name} of the chart are not those of deploy/prometheus")
    dashboards = [document["data"]["nodemesh.json"] for document in everything if "nodemesh.json" in document.get("data", {})]
    source = json.loads((DEPLOY / "grafana/nodemesh.json").read_text())
    expect([json.loads(text) for text in dashboards] == [source], "the dashboard of the chart is not that of deploy/grafana")


def base(chart):
    """The chart with its defaults, without the labels of Helm."""
    found = render(chart, {})
    for document in found:
        labels = document["metadata"]["labels"]
        for label in ["helm.sh/chart", "app.kubernetes.io/managed-by"]:
            labels.pop(label, None)
        document["metadata"].get("annotations", {}).pop("helm.sh/resource-policy", None)
        if not document["metadata"].get("annotations", True):
            del document["metadata"]["annotations"]
    order = ["ServiceAccount", "Secret", "ConfigMap", "PersistentVolumeClaim", "Service", "NetworkPolicy", "Deployment", "DaemonSet"]
    found.sort(key=lambda document: (order.index(document["kind"]), document["metadata"]["name"]))
    head = "# @generated by `cargo xtask deploy --update` from the chart in deploy/helm, with its default values.\n"
    return head + yaml.safe_dump_all(found, sort_keys=False, width=120)


def check_kustomizations(kubectl):
    for folder in [DEPLOY / "kustomize/base", *OVERLAYS]:
        built = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        name = folder.relative_to(DEPLOY)
        if built.returncode != 0:
            problems.append(f"kubectl kustomize {name}: {built.stderr}")
            continue
        expect("warning" not in built.stderr.lower(), f"kubectl kustomize {name}: {built.stderr}")
        found = documents(built.stdout)
        validate(str(name), found)
        expect(all(document["metadata"].get("namespace", "nodemesh") == "nodemesh" for document in found), f"{name}: another namespace")
        if name.name == "etcd":
            text = json.dumps(only(found, "Deployment"))
            expect("etcd://" in text and "persistentVolumeClaim" not in text, f"{name}: not on etcd")
            expect(not any(document["kind"] == "PersistentVolumeClaim" for document in found), f"{name}: a volume beside etcd")


@contextlib.contextmanager
def without_hints():
    """Helm's library tells of each link in the chart, on the descriptor: all else that it says there goes on."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if b"found symbolic link" not in line:
                    os.write(2, line)


def check_examples():
    """What of the examples is Kubernetes' own."""
    for path in sorted(DEPLOY.glob("examples/*/*.yaml")):
        found = documents(path.read_text())
        groups = [str(document.get("apiVersion", "")).split("/")[0] for document in found]
        validate(str(path.relative_to(DEPLOY)), [document for document, group in zip(found, groups) if group not in FOREIGN])


def main():
    kubectl, update = sys.argv[1], "--update" in sys.argv[2:]
    with without_hints(), helm_python.Chart.load(CHART) as chart:
        lint()
        check_chart(chart)
        check_promises(chart)
        rendered = base(chart)
    if update:
        BASE.write_text(rendered)
    expect(BASE.read_text() == rendered, f"{BASE.relative_to(DEPLOY)} is not the chart as it is now: `cargo xtask deploy --update`")
    check_kustomizations(kubectl)
    check_examples()
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(GOOD)} sets of values, {len(BAD)} refusals, {1 + len(OVERLAYS)} kustomizations: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
