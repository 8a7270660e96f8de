"""CodeFormer, stage I: an autoencoder whose latent is a grid of codes from a learnt codebook.

`python -m training.codebook --out .runs/codebook`

The first steps run without the codebook; it is then filled with latents of real faces and follows them by
moving averages (van den Oord et al. 2017, arXiv:1711.00937, appendix A.1). Codes that nothing has used for
a while are put onto latents of the current batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier_restorer.nets.codeformer import CodeFormer
from training.autoencoder import picture_loss, psnr
from training.faces import FaceStore, build_codeformer, nearest_codes
from training.loop import Loop, Recipe, compiled, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=5e-4, warm_up=150, flat=0.3)
FREE_STEPS = 300
FOLLOW = 0.98
UNUSED_AFTER = 0.03  # average uses in a batch under which a code counts as unused
REVIVE_EVERY = 50


class MovingCodebook:
    """Keeps the rows of a codebook at the means of the latents that chose them."""

    def __init__(self, rows: Tensor) -> None:
        """Takes the codebook (K, D); it is changed in place."""
        self.rows = rows
        self.uses = torch.ones(len(rows), device=rows.device)
        self.sums = rows.clone()

    @torch.no_grad()
    def fill(self, latent: Tensor) -> None:
        """Puts the rows onto random positions of (N, D, L, L)."""
        flat = latent.float().permute(0, 2, 3, 1).reshape(-1, latent.shape[1])
        picks = torch.randint(len(flat), (len(self.rows),), device=flat.device)
        self.rows.copy_(flat[picks] + 0.01 * torch.randn_like(self.rows))
        self.uses.fill_(1.0)
        self.sums.copy_(self.rows)

    @torch.no_grad()
    def follow(self, latent: Tensor, codes: Tensor, revive: bool) -> None:
        """Moves each row towards the latents that chose it."""
        flat, chosen = latent.float().permute(0, 2, 3, 1).reshape(-1, latent.shape[1]), codes.flatten()
        counts = torch.zeros_like(self.uses).index_add_(
            0, chosen, torch.ones_like(chosen, dtype=torch.float32)
        )
        self.uses.lerp_(counts, 1 - FOLLOW)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, chosen, flat), 1 - FOLLOW)
        if revive:
            unused = self.uses < UNUSED_AFTER
            picks = flat[torch.randint(len(flat), (len(self.rows),), device=flat.device)]
            self.uses[unused] = 1.0
            self.sums[unused] = picks[unused]
        self.rows.copy_(self.sums / self.uses.clamp(min=1e-3)[:, None])


def train(options: Options) -> None:
    """Runs the stage."""
    prepare_torch(options)
    faces = FaceStore(options)
    network = build_codeformer(options)
    codebook = network.quantize.embedding.weight.requires_grad_(False)
    trained = [*network.encoder.parameters(), *network.generator.parameters()]
    loop = Loop(options, RECIPE, {"codeformer": network}, trained)
    moving, filled = MovingCodebook(codebook), loop.step > 0
    encode, draw = compiled(network.encoder, options), compiled(network.generator, options)
    free = options.scaled(FREE_STEPS, 1)
    for progress in loop.steps():
        if loop.step % 200 == 0:
            faces.refresh()
        wanted = faces.clean(options.batch)
        with precision(options.device):
            latent = encode(wanted)[1].float()
            quantized, commitment = latent, latent.new_zeros(())
            if loop.step >= free and not filled:
                moving.fill(latent)
                filled = True
            if filled:
                codes = nearest_codes(latent, codebook)
                moving.follow(latent.detach(), codes, revive=loop.step % REVIVE_EVERY == 0 and progress < 0.8)
                quantized = network.lookup(codes)
                commitment = F.mse_loss(latent, quantized)
                quantized = latent + (quantized - latent).detach()
            drawn = draw(quantized)
        loss, error = picture_loss(drawn.float(), wanted, faces.weights)
        loop.move(
            loss + 0.25 * commitment,
            psnr=psnr(error),
            apart=commitment,
            used=(moving.uses > 0.1).float().sum(),
        )
    loop.finish()
    if not filled:
        moving.fill(encode(wanted)[1])
    quality, used = measure(network, faces.unseen(options.scaled(100, 2)))
    loop.export(psnr_unseen=round(quality, 2), codes_used=used)
    print(f"codebook: {quality:.2f} dB on unseen faces, {used} codes in use", flush=True)


@torch.no_grad()
def measure(network: CodeFormer, faces: Tensor) -> tuple[float, int]:
    """Mean PSNR in dB through the codes, and how many different codes the faces use."""
    errors, used = [], set()
    for part in faces.split(4):
        codes = nearest_codes(network.encoder(part)[1], network.quantize.embedding.weight)
        used |= set(codes.flatten().tolist())
        drawn = network.generator(network.lookup(codes)).clamp(-1, 1)
        errors.append((drawn - part).square().mean((1, 2, 3)))
    return float(psnr(torch.cat(errors)).mean()), len(used)


if __name__ == "__main__":
    train(parse_options("Trains the codebook of the small CodeFormer."))
