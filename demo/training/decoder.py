"""Trains the decoder of the trained autoencoder further; the encoder, and so the latents, stay frozen.

`python -m training.decoder --out .runs/decoder`

Diffusion learns latents, so the encoder is final when diffusion starts; the decoder can still improve. It
sees latents with a random error, like those of a diffusion network.
"""

import torch

from training.autoencoder import RECIPE, load_autoencoder, measure, psnr, reconstruction_loss
from training.data import PictureStore
from training.loop import Loop, compiled, precision
from training.options import Options, parse_options, prepare_torch

MAX_ERROR = 0.12  # standard deviation; the latents' own is 1


def train(options: Options) -> None:
    """Run the stage; its export contains the whole autoencoder."""
    prepare_torch(options)
    store = PictureStore(options, least=options.scaled(3000, 8), most=options.scaled(40_000, 16))
    network = load_autoencoder(options.runs / "autoencoder", options.profile, options.device)
    trained = [*network.decoder.parameters(), *network.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    network.decoder.train()
    loop = Loop(options, RECIPE, {"autoencoder": network}, trained)
    encoder, decoder = compiled(network.encoder, options), compiled(network.decoder, options)
    channels = options.profile.latent_channels
    for _ in loop.steps():
        if loop.step % 400 == 0:
            store.refresh()
        target, weights = store.batch(options.batch, loop.step)
        with precision(options.device):
            with torch.no_grad():
                latents = network.quant_conv(encoder(target))[:, :channels].float()
                error = MAX_ERROR * torch.rand(len(latents), 1, 1, 1, device=latents.device)
                latents = latents + error * torch.randn_like(latents)
            decoded = decoder(network.post_quant_conv(latents))
        loss, squared = reconstruction_loss(decoded.float(), target, weights)
        loop.update(loss, psnr=psnr(squared))
    loop.finish()
    quality = measure(network, store.unseen(options.scaled(256, 2)))
    loop.export(psnr_unseen=round(quality, 2))
    print(f"decoder: {quality:.2f} dB on unseen images", flush=True)


if __name__ == "__main__":
    train(parse_options("Trains the decoder of the demo set's autoencoder further."))
