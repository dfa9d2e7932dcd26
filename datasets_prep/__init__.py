"""Turns raw images into a dataset that every recipe reads; loads no torch."""
