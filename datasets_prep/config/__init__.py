"""The options of a preparation."""

from datasets_prep.config.captions import CaptionerName, CaptionsConfig, LintConfig
from datasets_prep.config.images import FLAGS, DedupConfig, LimitsConfig, QualityConfig, ScoresConfig
from datasets_prep.config.prep import PrepConfig
from datasets_prep.config.result import BucketsConfig, SplitConfig, WriteConfig

__all__ = [
    "FLAGS",
    "BucketsConfig",
    "CaptionerName",
    "CaptionsConfig",
    "DedupConfig",
    "LimitsConfig",
    "LintConfig",
    "PrepConfig",
    "QualityConfig",
    "ScoresConfig",
    "SplitConfig",
    "WriteConfig",
]
