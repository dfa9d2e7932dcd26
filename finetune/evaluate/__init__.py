"""Scores of a checkpoint on a fixed grid of prompts and seeds."""
