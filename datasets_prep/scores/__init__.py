"""Learned scores of images."""
