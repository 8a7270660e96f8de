"""CodeFormer, stage III: blends what the degraded face still shows into the decoded one.

`python -m training.fusion --out .runs/fusion`

The fusion blocks learn to bring the result close to the clean face at weights w between 0.3 and 1, most often
at the default of 0.6. Unlike in the paper's stage III, everything but the codebook is trained further: a
narrow network that was trained for minutes has more to gain than to lose. The encoder must let the colors
through, the generator decodes some faces at w = 0, from the predicted codes alone, and the codes stay those
that the network, as it was before this stage, predicts from the clean face (cross entropy).
"""

import copy

import torch
from torch import Tensor

from atelier_restorer.nets.codeformer import CodeFormer, match_statistics
from training.autoencoder import psnr, reconstruction_loss
from training.codes import code_losses
from training.faces import FaceStore, build_codeformer
from training.loop import EXPORT, Loop, Recipe, load_export, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=7e-4, warm_up=150, flat=0.2)
FIDELITY = 0.6
DEFAULT_SHARE = 0.4  # of the faces use the default weight
CODES_ONLY_SHARE = 0.25  # of the faces are decoded at w = 0
CODES_WEIGHT = 0.1  # weight of the loss of stage II


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options, fixed_shapes=False)
    faces = FaceStore(options)
    network = build_codeformer(options)
    load_export(options.runs / "codes" / EXPORT, "codeformer", network)
    teacher = copy.deepcopy(network).requires_grad_(False).eval()
    with torch.no_grad():  # initially the fusion changes nothing
        for name, parameter in network.fuse_convs_dict.named_parameters():
            if ".scale.2." in name or ".shift.2." in name:
                parameter.zero_()
    network.quantize.requires_grad_(False)
    loop = Loop(options, RECIPE, {"codeformer": network})
    side = network.config.latent_size
    for _ in loop.steps():
        if loop.step % 200 == 0:
            faces.refresh()
        with torch.no_grad():
            degraded, clean = faces.training_pairs(options.batch)
        fidelity = 0.3 + 0.7 * torch.rand(len(clean))
        kind = torch.rand(len(clean))
        fidelity[kind < DEFAULT_SHARE] = FIDELITY
        fidelity[kind > 1 - CODES_ONLY_SHARE] = 0.0
        with precision(options.device):
            with torch.no_grad():
                expected = (
                    teacher.predict_codes(teacher.encoder(clean)[1]).argmax(2).unflatten(1, (side, side))
                )
            features, latent = network.encoder(degraded)
            logits = network.predict_codes(latent)
            cross_entropy, distance = code_losses(latent, logits, network, expected)
            codes = logits.argmax(2).unflatten(1, (side, side))
            quantized = match_statistics(network.lookup(codes), latent)
            decoded = network.decode(quantized, features, fidelity).float()
        # Milder weights than in the other stages: the whole square is pasted, including its background.
        loss, error = reconstruction_loss(decoded, clean, faces.weights.sqrt())
        gain = psnr(error) - psnr((degraded - clean).square().mean())
        accuracy = (codes == expected).float().mean()
        loop.update(
            loss + CODES_WEIGHT * (cross_entropy + distance), psnr=psnr(error), gain=gain, accuracy=accuracy
        )
    loop.finish()
    torch.manual_seed(1)
    found = measure(network, faces, options.scaled(100, 2))
    loop.export(None, **found)
    print(f"fusion: {found}", flush=True)


@torch.no_grad()
def measure(network: CodeFormer, faces: FaceStore, count: int) -> dict[str, float]:
    """Mean PSNR in dB on degraded held-out faces: of the input, and at w = 0, 0.6 and 1."""
    clean = faces.unseen(count)
    rows: dict[str, list[Tensor]] = {"spoiled": [], "w0": [], "w0.6": [], "w1": []}
    for part in clean.split(4):
        degraded = faces.degraded(part)
        results = {
            "spoiled": degraded,
            "w0": network(degraded, 0.0).image,
            "w0.6": network(degraded, FIDELITY).image,
        }
        results["w1"] = network(degraded, 1.0).image
        for name, image in results.items():
            rows[name].append((image.clamp(-1, 1) - part).square().mean((1, 2, 3)))
    return {f"psnr_{name}": round(float(psnr(torch.cat(errors)).mean()), 2) for name, errors in rows.items()}


if __name__ == "__main__":
    train(parse_options("Trains the fusion of the small CodeFormer."))
