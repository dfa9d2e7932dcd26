"""The state of a run that is scored while it trains."""
