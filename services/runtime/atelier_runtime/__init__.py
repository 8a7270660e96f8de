"""What every Atelier process needs to be a service, and nothing about faces or prompts."""

__version__ = "0.1.0"
