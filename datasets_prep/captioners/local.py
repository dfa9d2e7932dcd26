"""The common part of captioners with a local transformers model."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from datasets_prep.captioners.base import model_of
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.loading import dtype_name
from datasets_prep.vision.model_files import ModelFiles, check_type, digest, find_model


class LocalCaptioner:
    """A captioner with a model from a folder or the Hub. Subclasses write the captions."""

    types: ClassVar[Sequence[str]]
    """Model types that it accepts, as in their config.json."""

    def __init__(self, config: CaptionsConfig) -> None:
        self.config = config
        self.name = f"{config.captioner} {model_of(config)}"
        self.batch_size = config.batch_size
        self._model: Any = None
        self._processor: Any = None

    @functools.cached_property
    def files(self) -> ModelFiles:
        """Find the model of the options. Raises ValueError where it is of another type."""
        files = find_model(model_of(self.config))
        check_type(files, self.config.captioner, self.types)
        return files

    def identity(self) -> str:
        """Hash what the captions depend on. The batch size is not included, although another one can change a caption,
        above all in float16 and bfloat16: sums are then computed in another order, and of two tokens that are about
        equally likely the other one may win."""
        return digest(
            self.config.captioner,
            model=self.files.identity(),
            prompt=self.config.prompt,
            max_new_tokens=self.config.max_new_tokens,
            max_side=self.config.max_side,
            dtype=dtype_name(self.config),
        )
