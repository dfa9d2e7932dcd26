"""Similarity of images; torch-free."""
