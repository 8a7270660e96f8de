"""Atelier's generator: SDXL base pass, upscaling, second pass, refiner."""
