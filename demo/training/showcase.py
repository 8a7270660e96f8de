"""Makes the README's picture of a ruined face before and after restoration.

`python -m training.showcase --to docs/before_after.png`

The drawing was never trained on; it is blurred, shrunk, noised and compressed as the training's own
"photographs" are, and restored by the restorer's own code: detection, alignment, CodeFormer, paste-back.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import drawing
from atelier_restorer.models import load_models
from atelier_restorer.pipeline import RestorerPipeline
from atelier_restorer.request import RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.images import Picture
from atelier_runtime.metrics import StageLedger
from training.degrade import spoil_photograph

SIDE = 768


class _Patient:
    """A job that nobody cancels."""

    def check(self) -> None:
        """Go on."""


def restore(pipeline: RestorerPipeline, spoiled: NDArray[np.uint8], fidelity: float) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with its faces restored; raises ValueError if none was."""
    picture, request, ledger = Picture(spoiled), RestoreRequest(fidelity=fidelity), StageLedger()
    made = pipeline.restore(_Patient(), picture, request, ledger)  # type: ignore[arg-type]  # only `check` is used
    result = pipeline.paste(picture, request, made, ledger)
    if result.reason is not None:
        raise ValueError(f"no face was restored: {result.reason}")
    return result.picture.rgb


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="demo", help="'demo' or the folder of a model set")
    parser.add_argument("--seed", type=int, default=900_001)
    parser.add_argument("--fidelity", type=float, default=RestoreRequest().fidelity)
    parser.add_argument("--to", type=Path, default=Path("docs/before_after.png"))
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    settings = RestorerSettings.model_validate({"model_set": given.set, "device": "cpu"})
    pipeline = RestorerPipeline(load_models(settings), settings)
    drawn = drawing.draw(np.random.default_rng(given.seed), SIDE, "portrait").image
    clean = torch.from_numpy(drawn).permute(2, 0, 1)[None].float() / 255
    spoiled = (spoil_photograph(clean)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    with torch.inference_mode():
        restored = restore(pipeline, spoiled, given.fidelity)
    given.to.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(given.to), cv2.cvtColor(np.concatenate([spoiled, restored], 1), cv2.COLOR_RGB2BGR))
    print(given.to)


if __name__ == "__main__":
    main()
