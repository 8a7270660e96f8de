"""Benchmarks; each script compares within one run and prints JSON. Nothing else should be running."""
