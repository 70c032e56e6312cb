"""The training loop of a run and the modules that it uses."""
