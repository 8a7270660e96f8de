"""Fills the generated blocks of the Markdown files: `python -m tools.docs`, or `--check` to compare only.

A block is what lies between `<!-- generated: NAME -->` and `<!-- end -->`. Its content comes from the code
that it describes: the protos' comments, the settings classes, the metric objects, the OpenAPI document, the
manifests.
"""
