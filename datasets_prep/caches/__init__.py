"""Results kept by content, so a rerun computes only what is new."""
