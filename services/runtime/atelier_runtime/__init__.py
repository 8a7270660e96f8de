"""What every Atelier process needs to be a service; knows nothing about faces or prompts."""

__version__ = "0.2.0"
