"""The config of a run as frozen dataclasses, and the plan made from it."""
