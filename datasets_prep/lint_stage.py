"""Looks over the captions of all pictures that are kept."""

from datasets_prep.config import PrepConfig
from datasets_prep.kept import KeptRows
from datasets_prep.lint import lint, token_counter
from datasets_prep.records import LintMark


def lint_marks(rows: KeptRows, config: PrepConfig) -> list[LintMark]:
    """Returns what is to be said of the captions."""
    captions = ((rows.pictures.sources[int(index)], rows.captions[int(index)].texts) for index in rows.indices)
    return lint(captions, config.lint, config.trigger, token_counter(config.lint))
