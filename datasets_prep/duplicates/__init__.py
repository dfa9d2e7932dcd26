"""Exact duplicates, near duplicates, and which image of a group is kept."""
