"""Blind comparison of two checkpoints by people: pairs, votes and their result."""
