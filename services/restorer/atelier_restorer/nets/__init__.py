"""Networks as torch modules, how their sizes are inferred from checkpoints, and how they are loaded."""
