"""The training loop, checkpoints and what surrounds them."""
