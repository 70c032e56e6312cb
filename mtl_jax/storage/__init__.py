"""The files of a workdir: how they are written and read."""
