"""Measurements after all tasks are learned."""
