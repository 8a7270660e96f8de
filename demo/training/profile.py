"""The two sizes in which the set can be trained: `cpu` in hours on two cores, `cuda` in minutes on a GPU."""

from dataclasses import dataclass

from atelier_restorer.nets.codeformer_config import CodeFormerConfig


@dataclass(frozen=True)
class Profile:
    """Sizes of images and networks, batch sizes, and minutes of training by stage."""

    name: str
    native: int
    """Side in px at which the set generates; other sides must be multiples of `size_multiple`."""
    size_multiple: int
    shards: dict[str, int]
    """Number of shards of each set of training images."""
    encoded: int
    """Drawings whose latents diffusion learns from; some are also mirrored or cropped."""
    large: int
    """Side in px of the large drawings that the upscaler learns from."""
    latent_channels: int
    autoencoder_widths: tuple[int, ...]
    unet_widths: tuple[int, int, int]
    refiner_side: int
    """Side in px at which the refiner works."""
    refiner_widths: tuple[int, ...]
    refiner_crops: int
    """Crops of drawings, each half as wide as `refiner_side`, that the refiner learns from."""
    detector_sides: tuple[int, ...]
    """Image sides in px that the detector is trained on."""
    upscaler_patch: int
    codeformer: CodeFormerConfig
    batches: dict[str, int]
    minutes: dict[str, float]
    ema_decays: dict[str, float]
    """EMA decay of the weights by stage: the fewer steps, the lower."""

    @property
    def shapes(self) -> dict[tuple[int, int], float]:
        """Image shapes, (height, width), that diffusion is trained on, and each one's share."""
        long, short = self.native, self.native * 3 // 4
        return {(long, long): 0.9, (long, short): 0.05, (short, long): 0.05}


CPU = Profile(
    name="cpu",
    native=128,
    size_multiple=32,
    shards={"pictures": 30, "large": 6, "faces": 12, "redrawn": 3, "pairs": 3, "people": 20},
    encoded=29_000,
    large=1024,
    latent_channels=4,
    autoencoder_widths=(16, 32, 64),
    unet_widths=(48, 96, 160),
    refiner_side=512,
    refiner_widths=(32, 48, 64, 96),
    refiner_crops=3600,
    detector_sides=(256, 256, 320, 384, 640),
    upscaler_patch=48,
    codeformer=CodeFormerConfig(
        base_width=8,
        channel_multipliers=(1, 2, 4, 8, 8, 16),
        res_blocks=1,
        codebook_size=256,
        codebook_dim=64,
        transformer_dim=128,
        transformer_layers=4,
        mlp_dim=256,
    ),
    batches={
        "autoencoder": 6,
        "decoder": 6,
        "detector": 8,
        "upscaler": 4,
        "codebook": 2,
        "codes": 3,
        "fusion": 2,
        "diffusion": 16,
        "refiner": 8,
        "identity": 64,
        "attributes": 48,
    },
    minutes={  # those with which the set was trained
        "autoencoder": 14.5,
        "decoder": 4.0,
        "detector": 58.5,
        "upscaler": 8.6,
        "codebook": 12.0,
        "codes": 7.0,
        "fusion": 90.0,
        "diffusion": 187.0,
        "refiner": 50.0,
        "identity": 75.0,
        "attributes": 7.0,
    },
    ema_decays={
        "autoencoder": 0.997,
        "decoder": 0.997,
        "detector": 0.99,
        "upscaler": 0.99,
        "codebook": 0.99,
        "codes": 0.99,
        "fusion": 0.99,
        "diffusion": 0.999,
        "refiner": 0.998,
        "identity": 0.995,
        "attributes": 0.99,
    },
)

CUDA = Profile(
    name="cuda",
    native=256,
    size_multiple=64,
    shards={"pictures": 90, "large": 17, "faces": 26, "redrawn": 20, "pairs": 20, "people": 60},
    encoded=90_000,
    large=1024,
    latent_channels=4,
    autoencoder_widths=(32, 64, 96, 96),
    unet_widths=(96, 128, 160),
    refiner_side=1024,
    refiner_widths=(48, 64, 96),
    refiner_crops=24_000,
    detector_sides=(256, 320, 384, 512, 640),
    upscaler_patch=96,
    codeformer=CodeFormerConfig(
        base_width=16,
        codebook_size=512,
        codebook_dim=64,
        transformer_dim=128,
        transformer_layers=5,
        mlp_dim=256,
    ),
    batches={
        "autoencoder": 24,
        "decoder": 24,
        "detector": 48,
        "upscaler": 16,
        "codebook": 16,
        "codes": 32,
        "fusion": 12,
        "diffusion": 384,
        "refiner": 64,
        "identity": 256,
        "attributes": 128,
    },
    minutes={
        "autoencoder": 5.0,
        "decoder": 3.0,
        "detector": 3.5,
        "upscaler": 1.5,
        "codebook": 5.0,
        "codes": 3.5,
        "fusion": 4.0,
        "diffusion": 15.0,
        "refiner": 3.0,
        "identity": 4.0,
        "attributes": 3.0,
    },
    ema_decays={
        "autoencoder": 0.998,
        "decoder": 0.998,
        "detector": 0.998,
        "upscaler": 0.998,
        "codebook": 0.997,
        "codes": 0.998,
        "fusion": 0.998,
        "diffusion": 0.9993,
        "refiner": 0.998,
        "identity": 0.997,
        "attributes": 0.995,
    },
)

PROFILES = {profile.name: profile for profile in (CPU, CUDA)}
