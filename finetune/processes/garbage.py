"""Garbage collection that leaves imports alone. Modules stay, so looking through them again and again finds nothing."""

import gc

RARELY = 1000
"""Collections of young objects for each full one. Python's own number is 10."""


def spare_imports() -> None:
    """Make full collections rare. Young objects are collected as before. Call it before torch and its company are
    imported, whose million objects would be looked through about twenty times."""
    youngest, younger, _ = gc.get_threshold()
    gc.set_threshold(youngest, younger, RARELY)


def collect_as_usual() -> None:
    """Return to Python's own rate. What runs long lets large objects go."""
    youngest, younger, _ = gc.get_threshold()
    gc.set_threshold(youngest, younger, 10)
