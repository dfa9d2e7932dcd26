"""Frozen weights stored with 4 or 8 bits."""
