"""A stored system: its tasks, backbone and bases, ready to predict."""
