"""Atelier's drawing stage: SDXL base pass, enlargement, second pass, refiner."""
