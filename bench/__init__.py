"""What is measured, against what, in one run; each script prints JSON. Nothing else should be running."""
