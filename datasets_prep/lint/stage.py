"""Checks of the captions of all images that are kept."""

from datasets_prep.config import PrepConfig
from datasets_prep.lint.checks import REFUSAL_KIND, SYNTAX_KIND, lint, token_counter
from datasets_prep.records import LintMark
from datasets_prep.rows import Kept
from finetune.data.listing import Findings
from finetune.prompt_syntax import REFUSAL, caption_warning


def lint_marks(kept: Kept, config: PrepConfig, findings: Findings) -> list[LintMark]:
    """Check the captions. Notes name syntax of other programs, which training would not interpret, and refusals."""
    captions = ((kept.images.sources[index], kept.captions.of(index)) for index in map(int, kept.indices))
    marks = lint(captions, config.lint, config.trigger, token_counter(config.lint))
    for mark in marks:
        name, _, piece = mark.detail.partition(": ")
        for source in mark.sources if mark.kind == SYNTAX_KIND else ():
            findings.warn(caption_warning(name), f"{source} ({piece})")
        for source in mark.sources if mark.kind == REFUSAL_KIND else ():
            findings.warn(caption_warning(REFUSAL), source)
    return marks
