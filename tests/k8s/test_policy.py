"""What holds for every pod of every overlay, and times and sizes that have to add up."""

from __future__ import annotations

import re

import pytest

from atelier_gateway.settings import GatewaySettings
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.settings import ProcessSettings, ServiceSettings
from tests.k8s.manifests import (
    BACKENDS,
    COMPONENTS,
    CONTROL_LABEL,
    JOBS_COMPONENTS,
    K8S,
    NAMES,
    OVERLAYS,
    TLS_COMPONENTS,
    Workload,
    combined,
    of_kind,
    overlay,
    workloads,
)

WORKLOADS = workloads()
SETTINGS: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "generator": GeneratorSettings,
    "restorer": RestorerSettings,
}
ALL = pytest.mark.parametrize("workload", WORKLOADS, ids=str)
OF_BACKENDS = pytest.mark.parametrize("workload", [w for w in WORKLOADS if w.name in BACKENDS], ids=str)


def settings(workload: Workload) -> ProcessSettings:
    """The settings as the process will read them from the manifests' variables."""
    name = f"ATELIER_{workload.name.upper()}_"
    values = {k.removeprefix(name).lower(): v for k, v in workload.environment.items()}
    return SETTINGS[workload.name].model_validate(values)


def drain_s(workload: Workload) -> float:
    return settings(workload).drain_seconds


def pre_stop_s(workload: Workload) -> int:
    seconds: int = workload.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return seconds


def startup_window_s(workload: Workload) -> int:
    probe = workload.container["startupProbe"]
    window: int = probe["periodSeconds"] * probe["failureThreshold"]
    return window


@ALL
def test_pods_have_no_privileges(workload: Workload) -> None:
    pod, container = workload.pod, workload.container
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] >= 10000 <= context["runAsGroup"]
    assert context["fsGroup"] == context["runAsGroup"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    account = of_kind(workload.manifests, "ServiceAccount")[pod["serviceAccountName"]]
    assert account["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert not any("hostPath" in volume for volume in pod["volumes"])


@ALL
def test_services_set_no_variables(workload: Workload) -> None:
    # A Service atelier-gateway would set ATELIER_GATEWAY_PORT=tcp://..., which is our setting's name.
    assert workload.pod["enableServiceLinks"] is False


@ALL
def test_writable_volumes_are_bounded(workload: Workload) -> None:
    for volume in workload.pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]
        elif volume["name"] == "jobs":
            claim = volume["persistentVolumeClaim"]["claimName"]
            spec = of_kind(workload.manifests, "PersistentVolumeClaim")[claim]["spec"]
            assert spec["resources"]["requests"]["storage"] and workload.most_replicas == 1
        else:
            assert volume["persistentVolumeClaim"]["readOnly"] is True


@ALL
def test_resources_are_requested_and_limited(workload: Workload) -> None:
    resources = workload.container["resources"]
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= resources[kind].keys()
    on_gpus = workload.name in BACKENDS and workload.overlay != "cpu-demo"
    for kind in ("requests", "limits"):
        assert resources[kind].get("nvidia.com/gpu") == (1 if on_gpus else None)
    if workload.name in BACKENDS:
        assert workload.setting("DEVICE") == ("cuda" if on_gpus else "cpu")
        published = "/models/photo" if workload.overlay == "restore" else "/models/sdxl"
        assert workload.setting("MODEL_SET") == (published if on_gpus else None)
        mounts = {mount["mountPath"]: mount for mount in workload.container["volumeMounts"]}
        assert ("/models" in mounts) == on_gpus and (not on_gpus or mounts["/models"]["readOnly"] is True)


@OF_BACKENDS
def test_pods_go_to_nodes_with_gpus_and_restorers_preferably_to_smaller_ones(
    workload: Workload,
) -> None:
    if workload.overlay == "cpu-demo":
        assert not {"tolerations", "affinity"} & workload.pod.keys()
        return
    assert workload.pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    affinity = workload.pod["affinity"]["nodeAffinity"]
    [preferred] = affinity.pop("preferredDuringSchedulingIgnoredDuringExecution")
    assert not affinity, "any GPU is better than none"
    [expression] = preferred["preference"]["matchExpressions"]
    smaller = "Lt" if workload.name == "restorer" else "Gt"
    assert expression == {"key": "nvidia.com/gpu.memory", "operator": smaller, "values": ["20000"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_rejects_pods_with_privileges(name: str) -> None:
    [namespace] = of_kind(overlay(name), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    homes = {m["metadata"].get("namespace") for m in overlay(name) if m["kind"] != "Namespace"}
    assert homes == {namespace["metadata"]["name"]}


@ALL
def test_images_have_a_tag_of_one_version(workload: Workload) -> None:
    image = workload.container["image"]
    assert re.fullmatch(r"[\w./-]+/atelier/\w+(:\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})", image), image


@ALL
def test_probes_use_what_the_processes_serve(workload: Workload) -> None:
    container = workload.container
    if workload.name == "gateway":
        probes = {
            kind: container[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        assert {probe["port"] for probe in probes.values()} == {"http"}
        assert [probe["path"] for probe in probes.values()] == ["/livez", "/readyz", "/livez"]
        status_timeout = GatewaySettings().status_timeout_seconds
        assert container["readinessProbe"]["timeoutSeconds"] > status_timeout
        return
    service = f"atelier.{workload.name}.v1.{workload.name.capitalize()}Service"
    port = SETTINGS[workload.name].model_fields["port"].default
    for kind in ("startupProbe", "readinessProbe"):
        assert container[kind]["grpc"] == {"port": port, "service": service}
    assert container["livenessProbe"]["grpc"] == {"port": port}
    assert container["livenessProbe"]["failureThreshold"] >= 3


@ALL
def test_probes_fail_in_time_and_not_too_early(workload: Workload) -> None:
    probes = {kind: workload.container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    assert not any("initialDelaySeconds" in probe for probe in probes.values()), "the startup probe waits"
    seconds = {kind: probe["periodSeconds"] * probe["failureThreshold"] for kind, probe in probes.items()}
    assert seconds["readiness"] <= 15, "its replica gets no more calls"
    assert 60 <= seconds["liveness"] <= 120, "one missed response is not a reason to restart it"


@ALL
def test_ports_arguments_and_variables_are_those_that_the_program_reads(workload: Workload) -> None:
    assert workload.container["args"] == ["serve"] and "command" not in workload.container
    fields = SETTINGS[workload.name].model_fields
    prefix = f"ATELIER_{workload.name.upper()}_"
    for name in workload.environment:
        assert name.startswith(prefix), name
        assert name.removeprefix(prefix).lower() in fields, f"nothing reads {name}"
    read = settings(workload)  # every value is valid
    ports = {port["name"]: port["containerPort"] for port in workload.container["ports"]}
    if isinstance(read, ServiceSettings):
        assert ports == {"grpc": read.port, "metrics": read.metrics_port}
    else:
        assert isinstance(read, GatewaySettings)
        assert ports == {"http": read.port, "metrics": read.metrics_port}
    assert read.host == "0.0.0.0"


@ALL
def test_services_select_the_pods_and_those_of_the_backends_are_headless(workload: Workload) -> None:
    service = of_kind(workload.manifests, "Service")[f"atelier-{workload.name}"]
    [port] = service["spec"]["ports"]
    assert service["spec"]["selector"].items() <= workload.labels.items()
    numbers = {p["name"]: p["containerPort"] for p in workload.container["ports"]}
    assert numbers[port["targetPort"]] == port["port"], "headless: clients reach the pod's own port"
    assert (service["spec"].get("clusterIP") == "None") == (workload.name in BACKENDS)
    assert not service["spec"].get("publishNotReadyAddresses")


@ALL
def test_the_gateway_resolves_all_addresses_of_each_backend(workload: Workload) -> None:
    if workload.name != "gateway":
        return
    services = of_kind(workload.manifests, "Service")
    assert (workload.setting("GENERATOR") == "none") == (workload.overlay == "restore")
    for backend in BACKENDS[1:] if workload.overlay == "restore" else BACKENDS:
        [port] = services[f"atelier-{backend}"]["spec"]["ports"]
        assert workload.setting(backend.upper()) == f"dns:///atelier-{backend}:{port['port']}"


@ALL
def test_an_eviction_is_always_possible_and_never_takes_two(workload: Workload) -> None:
    budget = of_kind(workload.manifests, "PodDisruptionBudget")[f"atelier-{workload.name}"]["spec"]
    assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "a broken pod must not block a drain"
    assert budget["selector"]["matchLabels"].items() <= workload.labels.items()


@ALL
def test_replicas_are_spread(workload: Workload) -> None:
    constraints = workload.pod["topologySpreadConstraints"]
    assert {c["topologyKey"] for c in constraints} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint["labelSelector"]["matchLabels"] == {CONTROL_LABEL: f"atelier-{workload.name}"}


@ALL
def test_a_pod_has_time_to_finish_what_it_accepted(workload: Workload) -> None:
    grace = workload.pod["terminationGracePeriodSeconds"]
    assert grace >= pre_stop_s(workload) + drain_s(workload) + 5
    if workload.name == "gateway":
        read = settings(workload)
        assert isinstance(read, GatewaySettings)
        assert read.drain_seconds >= read.deadline_seconds, "no accepted request outlives the drain"


@OF_BACKENDS
def test_a_full_queue_fits_into_the_drain(workload: Workload) -> None:
    # On one H100 the whole chain at 1536 px is budgeted at 6.5 s; a face of 512 px on a CPU takes 1 to 2 s.
    longest_job_s = 20 if workload.name == "generator" else 6
    read = settings(workload)
    assert isinstance(read, ServiceSettings)
    assert read.drain_seconds >= longest_job_s * (read.queue_capacity + 1)


@OF_BACKENDS
def test_a_new_replica_is_found_before_an_old_one_stops(workload: Workload) -> None:
    read = settings(workload)
    assert isinstance(read, ServiceSettings)
    # gRPC varies the age by a tenth; then the name is resolved, at most every 2 s.
    assert workload.deployment["spec"]["minReadySeconds"] >= 1.1 * read.max_connection_age_seconds + 2
    assert 1.1 * read.max_connection_age_seconds + 2 + 10 <= 90


@ALL
def test_a_rollout_does_not_fail_while_a_pod_may_still_start(workload: Workload) -> None:
    spec = workload.deployment["spec"]
    deadline = spec["progressDeadlineSeconds"]
    assert deadline > startup_window_s(workload) + spec["minReadySeconds"]


@ALL
def test_a_rollout_keeps_a_working_replica(workload: Workload) -> None:
    spec = workload.deployment["spec"]
    if spec["strategy"].get("type") == "Recreate":
        assert "jobs" in {volume["name"] for volume in workload.pod["volumes"]}, "one pod has the volume"
        return
    rolling = spec["strategy"]["rollingUpdate"]
    scaled = of_kind(workload.manifests, "ScaledObject").get(f"atelier-{workload.name}")
    fewest = scaled["spec"]["minReplicaCount"] if scaled else spec["replicas"]
    assert fewest - rolling["maxUnavailable"] >= 1
    has_no_spare_gpus = workload.name in BACKENDS and workload.overlay in ("gpu", "restore")
    assert (rolling["maxSurge"], rolling["maxUnavailable"]) == ((0, 1) if has_no_spare_gpus else (1, 0))


@ALL
def test_only_the_autoscaler_sets_the_replicas(workload: Workload) -> None:
    scaled = of_kind(workload.manifests, "ScaledObject").get(f"atelier-{workload.name}")
    assert (
        (scaled is None) == ("replicas" in workload.deployment["spec"]) == (workload.overlay != "autoscale")
    )
    if scaled is None:
        return
    spec = scaled["spec"]
    assert spec["scaleTargetRef"] == {"name": f"atelier-{workload.name}"}
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    for trigger in spec["triggers"]:
        assert trigger["metricType"] == "AverageValue", "KEDA's fallback needs it"
        assert trigger["metadata"]["ignoreNullValues"] == "false", "an unreachable Prometheus is not idleness"
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300 > 60
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] <= 30


def test_at_zero_replicas_a_call_waits_for_a_start_and_the_gateway_accepts_it() -> None:
    rendered = combined("keda", "scale-to-zero")
    gateway = Workload("to-zero", "gateway", rendered)
    read = settings(gateway)
    assert isinstance(read, GatewaySettings)
    assert 120 <= read.backend_wait_seconds < read.deadline_seconds
    assert gateway.container["readinessProbe"]["httpGet"]["path"] == "/livez"
    for backend in BACKENDS:
        scaled = of_kind(rendered, "ScaledObject")[f"atelier-{backend}"]["spec"]
        assert scaled["minReplicaCount"] == 0
        work, jobs, pending = scaled["triggers"]
        assert work["metadata"]["ignoreNullValues"] == "true", "without pods there are no series and no work"
        assert f'backend="{backend}"' in pending["metadata"]["query"]
        for other in (jobs, pending):
            message = "the gateway always exports how many wait"
            assert other["metadata"]["ignoreNullValues"] == "false", message


def test_every_component_and_file_is_used() -> None:
    kustomizations = K8S.rglob("kustomization.yaml")
    assert {p.parent.name for p in kustomizations} == {
        *NAMES, *COMPONENTS, *JOBS_COMPONENTS, *TLS_COMPONENTS, *OVERLAYS,
        "namespace", "scale-to-zero", "restores-only", "api-keys", "tracing",
    }  # fmt: skip
    for path in K8S.rglob("*"):
        if path.is_file() and path.name != "kustomization.yaml" and path.suffix != ".md":
            assert path.name in (path.parent / "kustomization.yaml").read_text(encoding="utf-8"), path
