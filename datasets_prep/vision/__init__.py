"""Vision models of transformers, in batches that fit in memory."""
