"""A copy of a run folder in remote storage; torch-free."""
