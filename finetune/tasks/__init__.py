"""Tasks: what a network learns from a batch, and its loss."""
