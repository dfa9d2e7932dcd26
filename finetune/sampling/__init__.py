"""Images from a base model, adapters and new tokens."""
