"""Captions that images have, and captions that models write."""
