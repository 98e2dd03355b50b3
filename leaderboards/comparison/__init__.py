"""Two models on the same questions."""
