"""Infers which task an image belongs to."""
