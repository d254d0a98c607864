"""Task sets to learn from."""
