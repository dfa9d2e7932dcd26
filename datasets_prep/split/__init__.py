"""Training sizes, and images held out for validation."""
