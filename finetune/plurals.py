"""Counts with nouns, lists of names, and reasons, for messages."""

from collections.abc import Sequence

NUM_SHOWN = 5


def plural(num: int, one: str, more: str = "") -> str:
    """Return "1 image", "2,000 images"."""
    return f"{num:,} {one if num == 1 else more or one + 's'}"


def first_few(items: Sequence[str], count: int | None = None) -> str:
    """List the first few items, and count the others of `count`. Unprintable items are escaped, long ones shortened."""
    count = len(items) if count is None else count
    shown = [item if item.isprintable() else ascii(item) for item in items[:NUM_SHOWN]]
    shown = [item if len(item) <= 200 else f"{item[:200]}..." for item in shown]
    return ", ".join(shown) + (f" and {count - NUM_SHOWN:,} more" if count > NUM_SHOWN else "")


def either(names: Sequence[str]) -> str:
    """Return "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def first_line(error: BaseException) -> str:
    """Return what an error says first, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
