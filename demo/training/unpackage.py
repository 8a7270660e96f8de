"""Takes a packaged set apart into the stages' exports, so that training goes on from it.

`python -m training.unpackage --set demo/atelier_demo_models --out .runs`

Networks whose shapes are no longer the profile's are left out; their stages begin anew. The packaged
CodeFormer stands for its last two stages: `fusion` goes on with it, and takes its codes for those of `codes`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from atelier_restorer.nets.codeformer import CodeFormer
from training.detector import build_detector
from training.loop import EXPORT, prefixed, write_export
from training.options import default_profile
from training.package_set import COMPONENTS, MANIFEST
from training.profile import PROFILES, Profile
from training.upscaler import CompactUpscaler


def networks(profile: Profile) -> dict[str, nn.Module]:
    """Untrained networks of the profile by the names of their components."""
    return {
        "upscaler": CompactUpscaler(),
        "detector": build_detector(),
        "codeformer": CodeFormer(profile.codeformer),
    }


def unpackage(packaged: Path, runs: Path, profile: Profile) -> list[str]:
    """Writes the exports that `runs` does not have yet; returns the names of those stages."""
    manifest: dict[str, Any] = json.loads((packaged / MANIFEST).read_text())
    record, written = manifest["training"], []
    for component, network in networks(profile).items():
        if component not in manifest["components"]:
            continue
        stage, name, _, _ = COMPONENTS[component]
        state = load_file(packaged / manifest["components"][component]["path"])
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in network.state_dict().items()}:
            print(f"{component} has other shapes than the profile {profile.name}", flush=True)
            continue
        for part in (stage, "codes") if component == "codeformer" else (stage,):
            if (runs / part / EXPORT).exists():
                continue
            (runs / part).mkdir(parents=True, exist_ok=True)
            facts = {
                **record["figures"].get(part, {}),
                "profile": profile.name,
                "step": record["steps"][part],
            }
            write_export(runs / part, prefixed(name, state), **facts)
            written.append(part)
    print(f"taken from {packaged}: {', '.join(written) or 'nothing'}", flush=True)
    return written


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=Path("demo/atelier_demo_models"))
    parser.add_argument("--out", type=Path, default=Path(".runs"))
    parser.add_argument("--profile", choices=sorted(PROFILES), default=default_profile())
    given = parser.parse_args()
    unpackage(given.set, given.out, PROFILES[given.profile])


if __name__ == "__main__":
    main()
