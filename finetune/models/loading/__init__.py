"""Load a model's parts from a folder, the Hub or a file."""
