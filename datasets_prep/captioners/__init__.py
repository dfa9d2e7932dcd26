"""Captioners by name; each module is imported when it is used."""

from datasets_prep.captioners.base import Captioner, Kind, Result
from datasets_prep.config import CAPTIONERS, CaptionsConfig
from finetune.import_named import import_named

__all__ = ["Captioner", "Kind", "Result", "make_captioner"]


def make_captioner(config: CaptionsConfig) -> Captioner:
    """Build the captioner of the options without loading its model. Options that it cannot follow are refused."""
    if config.captioner not in CAPTIONERS:
        raise ValueError(
            f"captions.captioner: got {config.captioner}, which looks at no image, expected one of "
            f"{', '.join(CAPTIONERS)}."
        )
    return import_named(CAPTIONERS[config.captioner])(config)
