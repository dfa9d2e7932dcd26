"""A five-minute tour that needs no download: a tiny pipeline trained in passing, then adapted to a new style."""
