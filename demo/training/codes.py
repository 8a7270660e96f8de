"""CodeFormer, stage II: predicts the codes of a clean face from a degraded one.

`python -m training.codes --out .runs/codes`

Generator and codebook stay as stage I left them. A copy of its encoder and the transformer learn the codes
that the frozen encoder assigns to the clean face (cross entropy), and the encoder to stay near the codebook
(squared distance).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier_restorer.nets.codeformer import CodeFormer
from training.faces import FaceStore, build_codeformer, nearest_codes
from training.loop import EXPORT, Loop, Recipe, compiled, load_export, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=5e-4, warm_up=150, flat=0.3)


def code_losses(latent: Tensor, logits: Tensor, network: CodeFormer, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the predicted codes, and squared distance of the latent from the correct ones."""
    cross_entropy = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), label_smoothing=0.02)
    return cross_entropy, F.mse_loss(latent.float(), network.lookup(codes))


def predictor_parameters(network: CodeFormer) -> list[nn.Parameter]:
    """The parameters of encoder and transformer."""
    parts = (network.encoder, network.feat_emb, network.ft_layers, network.idx_pred_layer)
    return [network.position_emb, *(p for part in parts for p in part.parameters())]


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options, fixed_shapes=False)
    faces = FaceStore(options)
    network = build_codeformer(options)
    load_export(options.runs / "codebook" / EXPORT, "codeformer", network)
    teacher = copy.deepcopy(network.encoder).requires_grad_(False).eval()
    network.requires_grad_(False)
    trained = predictor_parameters(network)
    for parameter in trained:
        parameter.requires_grad_(True)
    loop = Loop(options, RECIPE, {"codeformer": network}, trained)
    encode, encode_clean = compiled(network.encoder, options), compiled(teacher, options)
    for _ in loop.steps():
        clean = faces.clean(options.batch)
        with torch.no_grad():
            degraded = faces.degraded(clean)
        with precision(options.device):
            with torch.no_grad():
                codes = nearest_codes(encode_clean(clean)[1], network.quantize.embedding.weight)
            latent = encode(degraded)[1]
            logits = network.predict_codes(latent)
            cross_entropy, distance = code_losses(latent, logits, network, codes)
        accuracy = (logits.argmax(2) == codes.flatten(1)).float().mean()
        loop.update(
            cross_entropy + distance, cross_entropy=cross_entropy, distance=distance, accuracy=accuracy
        )
    loop.finish()
    loop.export()


if __name__ == "__main__":
    train(parse_options("Trains the code prediction of the small CodeFormer."))
