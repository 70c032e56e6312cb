"""Phases in which an evolutionary search finds the path of each task."""
