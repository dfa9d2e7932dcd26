"""The context that every stage of a preparation shares."""

from dataclasses import dataclass
from pathlib import Path

from datasets_prep.config import PrepConfig
from datasets_prep.measure.gather import Progress
from datasets_prep.measure.loader import Loader
from datasets_prep.selection import Selection
from finetune.data.listing import Findings


@dataclass(frozen=True)
class Context:
    """One preparation while its stages run."""

    config: PrepConfig
    selection: Selection
    """The images; each stage rejects some."""
    loader: Loader
    """Opens them."""
    findings: Findings
    progress: Progress
    own: Path
    """OUTPUT/.prep, where slow results are cached for the next run."""
