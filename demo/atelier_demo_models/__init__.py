"""The demo model set: small networks trained on drawings, shipped as package data."""

from pathlib import Path


def path() -> Path:
    """The folder with `manifest.json` and the weights that it names."""
    return Path(__file__).resolve().parent
