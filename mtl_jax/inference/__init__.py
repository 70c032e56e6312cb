"""Which task an image belongs to, when nobody says it."""
