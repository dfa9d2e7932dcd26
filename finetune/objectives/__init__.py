"""Noise, target and loss weight, independent of model family and method."""
