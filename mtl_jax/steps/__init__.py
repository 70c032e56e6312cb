"""One training step: for one task, several tasks jointly, or in rounds."""
