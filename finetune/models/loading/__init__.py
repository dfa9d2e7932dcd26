"""Load the parts of a model from a folder, a Hub repository or a single file."""
