"""What lies in a workdir, and how it is read and written."""
