"""Results cached by content, so a rerun computes only what is new."""
