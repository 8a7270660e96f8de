"""What `atelier-restorer` can do besides serving: restore, detect, inspect."""
