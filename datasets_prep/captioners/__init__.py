"""Captioners by name; each module is imported when it is used."""

from datasets_prep.captioners.base import Captioner
from datasets_prep.config import CAPTIONERS, CaptionsConfig
from finetune.import_named import import_named

__all__ = ["Captioner", "make_captioner"]


def make_captioner(config: CaptionsConfig) -> Captioner:
    """Build the captioner of the options without loading its model. Options that it cannot follow are refused."""
    return import_named(CAPTIONERS[config.captioner])(config)
