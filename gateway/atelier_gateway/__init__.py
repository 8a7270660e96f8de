"""Atelier's door: takes JSON orders over HTTP, has the stages do the work, gives the picture back."""

from importlib.metadata import version

__version__ = version("atelier-gateway")
