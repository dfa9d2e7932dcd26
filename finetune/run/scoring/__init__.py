"""Checkpoints scored while a run trains."""
