"""Files of adapters: what they hold, and merged into their base model."""
