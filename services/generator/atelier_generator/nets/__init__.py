"""Networks of a model set as they lie on disk: what they are, whether they are whole, how they are read."""
