"""One training step: of one task, of several jointly, or in rounds."""
