"""Captioners by name; each module is imported when it is used."""

import importlib

from datasets_prep.captioners.base import Captioner, Kind, Result
from datasets_prep.config import CaptionsConfig

CAPTIONERS = {
    "florence2": "datasets_prep.captioners.florence2:Florence2Captioner",
    "blip": "datasets_prep.captioners.blip:BlipCaptioner",
    "blip2": "datasets_prep.captioners.blip:Blip2Captioner",
    "qwen_vl": "datasets_prep.captioners.qwen_vl:QwenVLCaptioner",
    "llava": "datasets_prep.captioners.llava:LlavaCaptioner",
    "wd_tagger": "datasets_prep.captioners.wd_tagger:WDTagger",
    "http": "datasets_prep.captioners.http:HttpCaptioner",
}
"""Name -> "module:class"; the class is called with the options. file_name is not listed: it sees no image."""

__all__ = ["CAPTIONERS", "Captioner", "Kind", "Result", "make_captioner"]


def make_captioner(config: CaptionsConfig) -> Captioner:
    """Build the captioner of the options without loading its model. Options that it cannot follow are refused."""
    if config.captioner not in CAPTIONERS:
        raise ValueError(
            f"captions.captioner: got {config.captioner}, which looks at no image, expected one of "
            f"{', '.join(CAPTIONERS)}."
        )
    module, _, name = CAPTIONERS[config.captioner].partition(":")
    return vars(importlib.import_module(module))[name](config)
