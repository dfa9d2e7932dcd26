"""Low-rank adapters and their relatives."""
