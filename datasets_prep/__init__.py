"""Turns raw images into a data set that every recipe reads; loads no torch."""
