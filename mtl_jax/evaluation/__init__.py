"""What is measured once the tasks are learned."""
