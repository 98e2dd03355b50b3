"""Training runs with every checkpoint scored."""
