"""The Makefile's commands that take more than a line."""
