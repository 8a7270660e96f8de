"""Atelier's gateway: HTTP requests in, calls to the generator and the restorer, images out."""

from importlib.metadata import version

__version__ = version("atelier-gateway")
