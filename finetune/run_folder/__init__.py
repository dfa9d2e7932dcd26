"""What a run writes beside its checkpoints, and what a later run reads of it; torch-free."""
