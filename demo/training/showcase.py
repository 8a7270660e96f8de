"""Makes the README's picture of a ruined face before and after restoration.

`python -m training.showcase --to docs/before_after.png`

The drawing was never trained on; it is blurred, shrunk, noised and compressed as the training's own
"photographs" are, and restored by the restorer's own code: detection, alignment, CodeFormer, paste-back.
"""

import argparse
import asyncio
from pathlib import Path

import cv2
import numpy as np
import torch

import drawing
from atelier_restorer.in_process import open_here
from atelier_restorer.request import RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import defaults, images
from atelier_runtime.images import RgbArray
from training.degrade import spoil_photograph

SIDE = 768


async def restore(settings: RestorerSettings, spoiled: RgbArray, fidelity: float) -> RgbArray:
    """Return the picture (H, W, 3) with its faces restored. Raises ValueError if none was."""
    file = images.encode(images.Picture(spoiled), "png", defaults.QUALITY)
    async with open_here(settings, ("detector", "codeformer"), ("detector", "codeformer")) as restorer:
        answer = await restorer.restore(file, RestoreRequest(fidelity=fidelity))
    if not answer.report["face_restoration_applied"]:
        raise ValueError(f"no face was restored: {answer.report['face_restoration_reason']}")
    return images.decode(answer.picture, max_pixels=spoiled.size).rgb


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
    drawn = drawing.draw(np.random.default_rng(given.seed), SIDE, "portrait").image
    clean = torch.from_numpy(drawn).permute(2, 0, 1)[None].float() / 255
    spoiled = (spoil_photograph(clean)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    restored = asyncio.run(restore(settings, spoiled, given.fidelity))
    given.to.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(given.to), cv2.cvtColor(np.concatenate([spoiled, restored], 1), cv2.COLOR_RGB2BGR))
    print(given.to)


if __name__ == "__main__":
    main()
