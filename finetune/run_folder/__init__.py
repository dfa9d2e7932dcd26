"""Files of a run beside its checkpoints; torch-free."""
