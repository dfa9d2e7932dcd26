"""Descriptions of images by numbers, from pixels or from models."""
