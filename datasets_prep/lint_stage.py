"""Looks over the captions of all pictures that are kept."""

from datasets_prep.config import PrepConfig
from datasets_prep.kept import Kept
from datasets_prep.lint import lint, token_counter
from datasets_prep.records import LintMark


def lint_marks(kept: Kept, config: PrepConfig) -> list[LintMark]:
    """Returns what is to be said of the captions."""
    captions = ((kept.pictures.sources[index], kept.captions.of(index)) for index in map(int, kept.indices))
    return lint(captions, config.lint, config.trigger, token_counter(config.lint))
