"""What is decoded of a file, and which of its metadata a response says are dropped."""

from __future__ import annotations

from atelier_runtime import images

FORMATS: tuple[images.Format, ...] = ("png", "jpeg", "webp")


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=10**6, deep=True)


def dropped(picture: images.Picture, output: images.Format = "png") -> str:
    """Return the warnings about metadata, one a line."""
    warnings = images.losses(picture, output, 100)
    return "\n".join(warning.message for warning in warnings if warning.code == "metadata_dropped")
