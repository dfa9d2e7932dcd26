"""W&B: an offline run, its environment variables, and the upload."""
