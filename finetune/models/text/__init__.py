"""Prompts for text encoders, and new tokens."""
