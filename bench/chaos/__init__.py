"""What Atelier does under load and under faults, measured on real processes: `python -m bench.chaos`."""
