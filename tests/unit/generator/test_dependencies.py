"""What the generator declares as its dependencies is all that it needs to draw."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.k8s.dockerfile import link_installed
from tests.k8s.manifests import ROOT
from tests.tiny_sdxl import build_set

SOURCES = ("protos", "services/runtime", "demo", "services/generator")
DRAW = """
import sys
sys.path[:0] = sys.argv[2:]
from atelier_generator.models import load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.samplers import SAMPLERS
from atelier_generator.settings import GeneratorSettings
settings = GeneratorSettings(device="cpu", dtype="float32", model_set=sys.argv[1], cpu_threads=1)
pipeline = Pipeline(load_models(settings))
for sampler, entry in SAMPLERS.items():
    for schedule in entry.schedules:
        request = GenerateRequest(
            "a cat", width_px=256, height_px=256, seed=1, num_inference_steps=3, sampler=sampler,
            schedule=schedule, use_refiner=False, use_upscaler=False,
        )
        drawn = pipeline.generate(pipeline.complete(request))
        print(drawn.sampler, drawn.schedule)
"""


def requirements() -> set[str]:
    """What the distributions of this repository require that the generator consists of."""
    names: set[str] = set()
    for folder in SOURCES:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = [*project.get("dependencies", []), *project.get("optional-dependencies", {}).get("torch", [])]
        names |= {Requirement(text).name for text in texts}
    return {name for name in names if not name.startswith("atelier-")}


def test_every_sampler_and_schedule_draws_with_the_declared_dependencies_alone(tmp_path: Path) -> None:
    """The environment of the tests has more, which libraries use where they find it."""
    site_packages = tmp_path / "lib/python3/site-packages"
    site_packages.mkdir(parents=True)
    link_installed(tmp_path, *sorted(requirements()))
    sources = [str(ROOT / ("protos/gen" if folder == "protos" else folder)) for folder in SOURCES]
    command = [sys.executable, "-I", "-S", "-c", DRAW]
    done = subprocess.run(
        [*command, str(build_set(tmp_path / "set", upscaler=False)), str(site_packages), *sources],
        capture_output=True,
        text=True,
        timeout=600,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "dpmpp_2m beta" in done.stdout.splitlines()
