"""The example of an Indexed Job: valid, without privileges, and its pods restore all of a folder together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml

from atelier_restorer.__main__ import main
from tests.contract.script import file_of
from tests.contract.stack import Stack
from tests.k8s.manifests import ROOT, Workload, of_kind, overlay

JOB: dict[str, Any] = yaml.safe_load((ROOT / "examples/kubernetes_indexed_job/job.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
RESTORER = Workload("gpu", "restorer", overlay("gpu"))


@pytest.mark.parametrize("version", ["1.33", "1.35", "1.37"])
def test_the_job_is_valid(version: str) -> None:
    kubernetes_validate.validate(JOB, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(JOB | {"spec": JOB["spec"] | {"completion": 8}}, version, strict=True)


def test_its_pods_are_as_restricted_as_the_restorers_and_run_its_image() -> None:
    for name in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert POD[name] == RESTORER.pod[name]
    assert CONTAINER["securityContext"] == RESTORER.container["securityContext"]
    assert CONTAINER["image"] == RESTORER.container["image"]
    assert {"cpu", "memory"} <= CONTAINER["resources"]["limits"].keys()


def test_it_calls_the_gateway_that_the_manifests_have() -> None:
    [gateway] = [s for s in of_kind(overlay("gpu"), "Service").values() if "gateway" in s["metadata"]["name"]]
    [port] = gateway["spec"]["ports"]
    assert f"--server=http://{gateway['metadata']['name']}:{port['port']}" in CONTAINER["args"]
    assert JOB["metadata"]["namespace"] == gateway["metadata"]["namespace"]


def test_its_pods_restore_all_of_a_folder_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("atelier_restorer.commands.connection.configure_logging", lambda *_: None)
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    photos, restored = tmp_path / "photos", tmp_path / "restored"
    photos.mkdir()
    restored.mkdir()
    names = [f"{number:02}.png" for number in range(20)]
    for number, name in enumerate(names):
        (photos / name).write_bytes(file_of(np.full((16, 16 + number, 3), 90, np.uint8)))
    with Stack() as stack:
        for index in range(JOB["spec"]["completions"]):
            arguments = [
                argument.replace("$(JOB_COMPLETION_INDEX)", str(index))
                .replace(mounts["photos"], str(photos))
                .replace(mounts["restored"], str(restored))
                .replace("http://atelier-gateway:7860", stack.url)
                for argument in CONTAINER["args"]
            ]
            assert main(arguments) == 0, capsys.readouterr().err
        assert len(stack.restorer.requests) == len(names)
    assert sorted(path.name for path in restored.glob("*.png")) == names
    reports = [json.loads(path.read_text()) for path in restored.glob("report-*.json")]
    assert len(reports) == JOB["spec"]["completions"]
    assert sorted(Path(each["input"]).name for report in reports for each in report["pictures"]) == names
