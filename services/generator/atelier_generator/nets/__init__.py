"""The networks of a model set on disk: what they are, whether they are complete, how they are loaded."""
