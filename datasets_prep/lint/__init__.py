"""Checks of captions; nothing is changed."""
