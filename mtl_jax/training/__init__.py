"""The loop that learns the tasks of a run, and what it is made of."""
