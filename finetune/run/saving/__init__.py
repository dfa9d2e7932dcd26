"""Checkpoints of a run, with the files of adapters and tokens beside them."""
