"""A phase in which evolution finds the path of each task."""
