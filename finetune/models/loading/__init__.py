"""From a folder, a Hub repository or a single file to the parts of a model."""
