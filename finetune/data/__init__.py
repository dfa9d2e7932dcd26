"""From pictures and captions on disk to batches."""
