"""Atelier's restorer: detects faces, restores them with CodeFormer and pastes them back."""
