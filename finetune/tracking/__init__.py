"""Experiment trackers: W&B, TensorBoard and trackio."""
