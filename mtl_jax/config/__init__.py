"""A run as frozen dataclasses, and the plan that is made of it."""
