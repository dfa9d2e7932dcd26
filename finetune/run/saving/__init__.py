"""Checkpoints of a run, with files of adapters and tokens."""
