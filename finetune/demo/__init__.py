"""A five-minute tour without downloads: the shipped model learns a new style."""
