"""A five-minute tour that needs no download: the model that ships with the project, adapted to a new style."""
