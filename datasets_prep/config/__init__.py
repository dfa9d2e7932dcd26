"""The options of a preparation."""

from datasets_prep.config.captions import CAPTIONERS, CaptionsConfig, LintConfig, TagsConfig
from datasets_prep.config.images import FLAGS, DedupConfig, LimitsConfig, QualityConfig
from datasets_prep.config.prep import PrepConfig
from datasets_prep.config.result import BucketsConfig, SplitConfig, WriteConfig
from datasets_prep.config.scores import SCORES, ScoresConfig

__all__ = [
    "CAPTIONERS", "FLAGS", "SCORES", "BucketsConfig", "CaptionsConfig", "DedupConfig", "LimitsConfig", "LintConfig",
    "PrepConfig", "QualityConfig", "ScoresConfig", "SplitConfig", "TagsConfig",
    "WriteConfig",
]  # fmt: skip
