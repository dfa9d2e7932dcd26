"""Measurements of each image: size, hashes, codes, and quality scores."""
