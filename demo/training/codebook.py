"""CodeFormer, stage I: an autoencoder whose latent is a grid of codes from a learned codebook.

`python -m training.codebook --out .runs/codebook`

The first steps run without the codebook; it is then initialized with latents of real faces and follows them
by an exponential moving average (van den Oord et al. 2017, arXiv:1711.00937, appendix A.1). Codes that have
not been used for a while are reset to latents of the current batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier_restorer.nets.codeformer import CodeFormer
from training.autoencoder import psnr, reconstruction_loss
from training.faces import FaceStore, build_codeformer, nearest_codes
from training.loop import Loop, Recipe, compiled, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=5e-4, warm_up=150, flat=0.3)
STEPS_WITHOUT_CODEBOOK = 300
DECAY = 0.98
UNUSED_BELOW = 0.03  # average uses per batch below which a code counts as unused
REVIVE_EVERY = 50


class EmaCodebook:
    """Keeps the rows of a codebook at the moving averages of the latents assigned to them."""

    def __init__(self, rows: Tensor) -> None:
        """Take the codebook (K, D); it is updated in place."""
        self.rows = rows
        self.uses = torch.ones(len(rows), device=rows.device)
        self.sums = rows.clone()

    @torch.no_grad()
    def initialize(self, latent: Tensor) -> None:
        """Set the rows to random positions of (N, D, L, L)."""
        flat = latent.float().permute(0, 2, 3, 1).reshape(-1, latent.shape[1])
        picks = torch.randint(len(flat), (len(self.rows),), device=flat.device)
        self.rows.copy_(flat[picks] + 0.01 * torch.randn_like(self.rows))
        self.uses.fill_(1.0)
        self.sums.copy_(self.rows)

    @torch.no_grad()
    def update(self, latent: Tensor, codes: Tensor, revive: bool) -> None:
        """Move each row toward the latents assigned to it."""
        flat, assigned = latent.float().permute(0, 2, 3, 1).reshape(-1, latent.shape[1]), codes.flatten()
        counts = torch.zeros_like(self.uses).index_add_(
            0, assigned, torch.ones_like(assigned, dtype=torch.float32)
        )
        self.uses.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, assigned, flat), 1 - DECAY)
        if revive:
            unused = self.uses < UNUSED_BELOW
            picks = flat[torch.randint(len(flat), (len(self.rows),), device=flat.device)]
            self.uses[unused] = 1.0
            self.sums[unused] = picks[unused]
        self.rows.copy_(self.sums / self.uses.clamp(min=1e-3)[:, None])


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    faces = FaceStore(options)
    network = build_codeformer(options)
    codebook = network.quantize.embedding.weight.requires_grad_(False)
    trained = [*network.encoder.parameters(), *network.generator.parameters()]
    loop = Loop(options, RECIPE, {"codeformer": network}, trained)
    ema, initialized = EmaCodebook(codebook), loop.step > 0
    encode, decode = compiled(network.encoder, options), compiled(network.generator, options)
    first_step = options.scaled(STEPS_WITHOUT_CODEBOOK, 1)
    for progress in loop.steps():
        if loop.step % 200 == 0:
            faces.refresh()
        target = faces.clean(options.batch)
        with precision(options.device):
            latent = encode(target)[1].float()
            quantized, commitment = latent, latent.new_zeros(())
            if loop.step >= first_step and not initialized:
                ema.initialize(latent)
                initialized = True
            if initialized:
                codes = nearest_codes(latent, codebook)
                ema.update(latent.detach(), codes, revive=loop.step % REVIVE_EVERY == 0 and progress < 0.8)
                quantized = network.lookup(codes)
                commitment = F.mse_loss(latent, quantized)
                quantized = latent + (quantized - latent).detach()
            decoded = decode(quantized)
        loss, error = reconstruction_loss(decoded.float(), target, faces.weights)
        loop.update(
            loss + 0.25 * commitment,
            psnr=psnr(error),
            commitment=commitment,
            used=(ema.uses > 0.1).float().sum(),
        )
    loop.finish()
    if not initialized:
        ema.initialize(encode(target)[1])
    quality, used = measure(network, faces.unseen(options.scaled(100, 2)))
    loop.export(psnr_unseen=round(quality, 2), codes_used=used)
    print(f"codebook: {quality:.2f} dB on unseen faces, {used} codes in use", flush=True)


@torch.no_grad()
def measure(network: CodeFormer, faces: Tensor) -> tuple[float, int]:
    """Mean PSNR in dB of reconstructions from codes, and the number of distinct codes used."""
    errors, used = [], set()
    for part in faces.split(4):
        codes = nearest_codes(network.encoder(part)[1], network.quantize.embedding.weight)
        used |= set(codes.flatten().tolist())
        decoded = network.generator(network.lookup(codes)).clamp(-1, 1)
        errors.append((decoded - part).square().mean((1, 2, 3)))
    return float(psnr(torch.cat(errors)).mean()), len(used)


if __name__ == "__main__":
    train(parse_options("Trains the codebook of the small CodeFormer."))
