"""The commands of `atelier-restorer` besides `serve`: restore, detect, compare, inspect."""
