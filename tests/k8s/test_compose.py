"""compose.yaml: valid, closed to the network, with the images, settings, rules and dashboard of k8s/."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from atelier_gateway.settings import GatewaySettings
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import __version__
from atelier_runtime.settings import ProcessSettings, ServiceSettings
from tests.k8s import dockerfile, queries
from tests.k8s.manifests import NAMES, ROOT, Manifest
from tests.processes import program
from tools import rules

COMPOSE = ROOT / "docker/compose"
PASSWORDS = {"POSTGRES_PASSWORD": "p" * 48, "GRAFANA_PASSWORD": "g" * 24}
SETTINGS: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "generator": GeneratorSettings,
    "restorer": RestorerSettings,
}
OURS = ("gateway", "generator-cpu", "generator-gpu", "restorer-cpu", "restorer-gpu")
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolated(text: str, variables: dict[str, str]) -> str:
    """What compose makes of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, which raises `KeyError`."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind != "-":
            raise KeyError(name)
        return str(rest)

    return _VARIABLE.sub(value, text)


def project(**variables: str) -> Manifest:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    found: Manifest = yaml.safe_load(interpolated(text, PASSWORDS | variables))
    return found


SERVICES: dict[str, Manifest] = project()["services"]
EACH_OF_OURS = pytest.mark.parametrize("name", OURS)


def kind_of(name: str) -> str:
    return name.partition("-")[0]


def settings(name: str) -> ProcessSettings:
    """The settings as the process will read them from the image's variables and these."""
    kind = kind_of(name)
    prefix = f"ATELIER_{kind.upper()}_"
    variables = dockerfile.read(kind)["run"].environment() | SERVICES[name]["environment"]
    values = {k.removeprefix(prefix).lower(): v for k, v in variables.items() if k.startswith("ATELIER_")}
    assert values.keys() <= SETTINGS[kind].model_fields.keys(), "nothing reads them"
    return SETTINGS[kind].model_validate(values)


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_it_is_valid() -> None:
    folder = resources.files("check_jsonschema") / "builtin_schemas/vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validators.validator_for(schema)(schema).validate(project())
    assert set(SERVICES) == {*OURS, "postgres", "prometheus", "grafana"}


def test_nothing_listens_on_the_network_unless_somebody_says_so() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "gateway": ["127.0.0.1:7860:7860"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    for service in project(LISTEN="10.0.0.7")["services"].values():
        assert all(port.startswith("10.0.0.7:") for port in service.get("ports", []))
    assert not any("network_mode" in service for service in SERVICES.values())


def test_there_is_no_password_until_somebody_makes_one() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        interpolated(text, {})
    secrets = project()["secrets"]
    assert {secret["environment"] for secret in secrets.values()} == PASSWORDS.keys()
    for name, variable in (
        ("postgres", "POSTGRES_PASSWORD_FILE"),
        ("grafana", "GF_SECURITY_ADMIN_PASSWORD__FILE"),
    ):
        [secret] = SERVICES[name]["secrets"]
        assert SERVICES[name]["environment"][variable] == f"/run/secrets/{secret}"
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, timeout=60)
    assert ignored.returncode == 0, "where they are kept"


@EACH_OF_OURS
def test_images_are_those_of_the_same_dockerfiles(name: str) -> None:
    service, kind = SERVICES[name], kind_of(name)
    assert (
        service["build"]["dockerfile"] == f"docker/{kind}.Dockerfile" and service["build"]["context"] == "."
    )
    assert service["image"] == f"atelier/{kind}:{__version__}"
    arguments = {text.partition("=")[0] for text in dockerfile.read(kind)["build"].all("ARG")}
    assert service["build"]["args"].keys() <= arguments
    assert "healthcheck" not in service, "the image has one"


@EACH_OF_OURS
def test_processes_have_no_privileges_and_write_to_volumes_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    [temporary] = service["tmpfs"]
    assert re.fullmatch(r"/tmp:size=\w+,mode=1777(,exec)?", temporary)
    compiles = "compile" in SETTINGS[kind_of(name)].model_fields
    assert temporary.endswith(",exec") == compiles, "Docker's default is noexec"
    assert "user" not in service, "the image's"


@pytest.mark.parametrize("name", SERVICES)
def test_everything_comes_back_after_a_crash_and_its_log_is_bounded(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["logging"]["options"].keys() == {"max-size", "max-file"}
    if name not in OURS:
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", SERVICES[name]["image"]), "one version"


@EACH_OF_OURS
def test_variables_are_those_that_the_program_reads_and_it_has_time_to_finish(name: str) -> None:
    read = settings(name)
    assert read.host == "0.0.0.0"
    grace = seconds(SERVICES[name]["stop_grace_period"])
    assert read.drain_seconds + 10 < grace < read.drain_seconds + 30
    if isinstance(read, GatewaySettings):
        assert read.drain_seconds >= read.deadline_seconds, "no accepted request outlives the drain"
        assert read.allowed_hosts == ("localhost",)


def test_the_gateway_finds_both_services_and_its_database() -> None:
    read = settings("gateway")
    assert isinstance(read, GatewaySettings)
    for kind, address in (("generator", read.generator), ("restorer", read.restorer)):
        for name in (f"{kind}-cpu", f"{kind}-gpu"):
            [alias] = SERVICES[name]["networks"]["default"]["aliases"]
            of_service = settings(name)
            assert isinstance(of_service, ServiceSettings) and address == f"dns:///{alias}:{of_service.port}"
    assert SERVICES["gateway"]["ports"][0].endswith(f":{read.port}")
    postgres = SERVICES["postgres"]["environment"]
    user, database = postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]
    expected = f"postgresql://{user}:{PASSWORDS['POSTGRES_PASSWORD']}@postgres:5432/{database}"
    assert read.jobs_database == expected
    [volume] = SERVICES["gateway"]["volumes"]
    folder = volume.partition(":")[2]
    assert read.jobs_files == f"file:{folder}/jobs"
    assert folder in dockerfile.read("gateway")["run"].all("VOLUME"), "whose owner is the image's user"
    assert SERVICES["gateway"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_the_database_is_healthy_once_it_takes_connections_of_the_network() -> None:
    """While the image sets up a new volume, a server answers on the socket alone, and stops once more."""
    test = SERVICES["postgres"]["healthcheck"]["test"]
    assert test[:2] == ["CMD", "pg_isready"] and "--host=127.0.0.1" in test


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_is_a_whole_installation(profile: str) -> None:
    chosen = {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}
    assert {kind_of(name) for name in chosen} == {*NAMES, "postgres", "prometheus", "grafana"}
    for name in chosen & set(OURS) - {"gateway"}:
        read = settings(name)
        assert isinstance(read, ServiceSettings) and read.device == {"cpu": "cpu", "gpu": "cuda"}[profile]
        devices = (
            SERVICES[name].get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        )
        assert [device["capabilities"] for device in devices] == ([["gpu"]] if profile == "gpu" else [])
        mounted = [v["target"] for v in SERVICES[name].get("volumes", []) if v["read_only"]]
        assert mounted == ([read.model_set] if profile == "gpu" else [])
        condition = SERVICES["gateway"]["depends_on"][name]
        assert condition == {"condition": "service_started", "required": False}


def test_what_is_kept_is_in_named_volumes_and_what_is_mounted_exists() -> None:
    named = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert volume.endswith(":ro") and (ROOT / source).is_file(), volume
                else:
                    named.add(source)
    assert named == project()["volumes"].keys() == {"jobs", "postgres", "prometheus", "grafana"}


def test_prometheus_scrapes_every_process_with_the_labels_of_kubernetes() -> None:
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text(encoding="utf-8"))
    found = {}
    for job in config["scrape_configs"]:
        [target] = job["static_configs"]
        assert target["labels"].keys() == {"namespace", "pod"}
        [found[job["job_name"]]] = target["targets"]
    expected = {}
    for name in ("gateway", "generator-cpu", "restorer-cpu"):
        read = settings(name)
        assert isinstance(read, GatewaySettings | ServiceSettings)
        expected[f"atelier-{kind_of(name)}"] = f"{kind_of(name)}:{read.metrics_port}"
    assert found == expected


def test_prometheus_has_the_rules_of_kubernetes() -> None:
    text = (COMPOSE / "rules.yml").read_text(encoding="utf-8")
    assert text == rules.rules(), "run make docs"
    expected = queries.rules()
    for rule in (rule for group in expected for rule in group["rules"]):
        rule["expr"] = " ".join(rule["expr"].split())
    assert yaml.safe_load(text)["groups"] == expected
    checked = subprocess.run(
        [program("promtool"), "check", "config", str(COMPOSE / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_outdated_rule_file_is_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rules.yml"
    monkeypatch.setattr(rules, "TARGET", file)
    assert rules.main(["--check"]) == 1 and not file.exists()
    assert rules.main([]) == 0 and file.exists()
    assert rules.main(["--check"]) == 0


def test_the_rules_have_the_objectives_and_the_addresses_that_were_changed_in_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "monitoring", tmp_path / "rules.yml"
    shutil.copytree(rules.SOURCE, source)
    for file in source.glob("*.yaml"):
        text = file.read_text().replace("https://atelier.example/docs", "https://here/docs")
        file.write_text(text.replace('le: "80.0"', 'le: "120.0"'))
    monkeypatch.setattr(rules, "SOURCE", source)
    monkeypatch.setattr(rules, "TARGET", target)
    assert rules.main([]) == 0
    made = [rule for group in yaml.safe_load(target.read_text())["groups"] for rule in group["rules"]]
    drawing = {"slo": "latency", "kind": "drawing", "le": "120.0"}
    assert drawing in [rule["labels"] for rule in made if rule.get("record") == queries.OBJECTIVE]
    addresses = [rule["annotations"]["runbook_url"] for rule in made if "alert" in rule]
    assert addresses and all(address.startswith("https://here/docs/runbooks/") for address in addresses)


def test_grafana_has_the_dashboard_of_kubernetes_and_its_data_source() -> None:
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    targets = {source: target for source, target in mounted.items() if source.startswith("./")}
    dashboard = targets["./k8s/components/monitoring/dashboard.json"]
    [provider] = yaml.safe_load((COMPOSE / "grafana/dashboards.yml").read_text())["providers"]
    assert os.path.dirname(dashboard) == provider["options"]["path"]
    assert targets["./docker/compose/grafana/dashboards.yml"].startswith(
        "/etc/grafana/provisioning/dashboards/"
    )
    [source] = yaml.safe_load((COMPOSE / "grafana/datasources.yml").read_text())["datasources"]
    assert targets["./docker/compose/grafana/datasources.yml"].startswith(
        "/etc/grafana/provisioning/datasources/"
    )
    [variable] = [v for v in queries.dashboard()["templating"]["list"] if v["type"] == "datasource"]
    assert source["type"] == variable["query"] and source["isDefault"] is True
    assert source["url"] == "http://prometheus:9090"


PAGE = (ROOT / "docs/compose.md").read_text(encoding="utf-8")


def test_the_pages_command_makes_both_passwords_for_nobody_else_to_read(tmp_path: Path) -> None:
    [command] = re.findall(r"^```sh\n(\(umask .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=True, timeout=60)
    made = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert made.keys() == PASSWORDS.keys() and len(set(made.values())) == 2
    assert all(re.fullmatch(r"[0-9a-f]{24,}", value) for value in made.values()), "part of an address"
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_the_page_names_every_variable_and_its_default() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    used = {name: rest if kind == "-" else None for name, kind, rest in _VARIABLE.findall(text)}
    rows = re.findall(r"^\| (`[A-Z].*?`) \| (.*?) \|", PAGE, re.MULTILINE)
    described = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert described.keys() == used.keys() | {"GRAFANA_PASSWORD"}
    for name, default in used.items():
        if default is not None and name != "PIP_INDEX_URL":
            assert described[name] == f"`{default}`"


def test_the_pages_override_sets_what_the_services_read() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for name, service in yaml.safe_load(text)["services"].items():
        prefix = f"ATELIER_{kind_of(name).upper()}_"
        values = {key.removeprefix(prefix).lower(): value for key, value in service["environment"].items()}
        assert values.keys() <= SETTINGS[kind_of(name)].model_fields.keys()
        SETTINGS[kind_of(name)].model_validate(values)


def test_the_page_names_every_volume() -> None:
    section = PAGE.partition("## Stopping, keeping, upgrading")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == project()["volumes"].keys()
