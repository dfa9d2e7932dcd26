"""Models that look at images: their files, loading, and batches."""
