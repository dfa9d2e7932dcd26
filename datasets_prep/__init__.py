"""Preparation of raw images for every recipe; loads no torch."""
