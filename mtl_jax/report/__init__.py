"""The page that a run writes: tables, figures and drawings."""
