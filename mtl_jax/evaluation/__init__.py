"""Measurements after training."""
