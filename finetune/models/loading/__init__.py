"""Load the parts of a model from a folder, the Hub or a file."""
