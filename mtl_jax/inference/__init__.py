"""Infers the task of an image."""
