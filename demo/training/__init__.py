"""Trains the demo model set: drawings in, a folder of small networks out."""
