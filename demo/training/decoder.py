"""Goes on with the decoder of the trained autoencoder while the encoder, and with it the latents, stay.

`python -m training.decoder --out .runs/decoder`

Diffusion learns latents, so the encoder is done when diffusion begins; the decoder may still get better at
drawing them. It sees latents with a random error, as those of a diffusion network have.
"""

import torch

from training.autoencoder import RECIPE, load_autoencoder, measure, picture_loss, psnr
from training.data import PictureStore
from training.loop import Loop, compiled, precision
from training.options import Options, parse_options, prepare_torch

LARGEST_ERROR = 0.12  # standard deviation; the latents' own is 1


def train(options: Options) -> None:
    """Runs the stage; its export holds the whole autoencoder."""
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
        wanted, weights = store.batch(options.batch, loop.step)
        with precision(options.device):
            with torch.no_grad():
                latents = network.quant_conv(encoder(wanted))[:, :channels].float()
                error = LARGEST_ERROR * torch.rand(len(latents), 1, 1, 1, device=latents.device)
                latents = latents + error * torch.randn_like(latents)
            drawn = decoder(network.post_quant_conv(latents))
        loss, squared = picture_loss(drawn.float(), wanted, weights)
        loop.move(loss, psnr=psnr(squared))
    loop.finish()
    quality = measure(network, store.unseen(options.scaled(256, 2)))
    loop.export(psnr_unseen=round(quality, 2))
    print(f"decoder: {quality:.2f} dB on unseen pictures", flush=True)


if __name__ == "__main__":
    train(parse_options("Trains the decoder of the demo set's autoencoder further."))
