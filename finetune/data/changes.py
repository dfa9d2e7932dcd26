"""Differences between a dataset now and as it was."""

from dataclasses import dataclass

from finetune.plurals import first_few


@dataclass(frozen=True)
class Changes:
    """Names of images that were added, removed and changed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def summary(self) -> str:
        """Return one line with the counts and the first few names."""
        parts = {"added": self.added, "removed": self.removed, "changed": self.changed}
        return "; ".join(f"{len(names):,} {what}: {first_few(names)}" for what, names in parts.items() if names)
