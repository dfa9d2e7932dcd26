"""The names of layers in the single files of other programs."""
