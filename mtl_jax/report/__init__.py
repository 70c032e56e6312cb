"""The report of a run: tables and figures, on a page and in a terminal."""
