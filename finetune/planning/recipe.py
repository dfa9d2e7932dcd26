"""A recipe: its options, and the stages that they need; torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from finetune.config.train import TrainConfig
from finetune.data.sizes import without_upscaling
from finetune.run_folder.options import held_out_indices

if TYPE_CHECKING:
    from finetune.data.kept_files import KeptFiles
    from finetune.data.manifest import Manifest

Config = TypeVar("Config", bound=TrainConfig)
Captions = Literal["listed", "folder", "none"]


@dataclass(frozen=True)
class Stage:
    """One part of a recipe, which writes a folder."""

    folder: Path
    finished: Callable[[], str | None]
    """Returns the message for a complete stage, None if work remains. No torch is loaded."""
    run: Callable[["Manifest"], object]


@dataclass(frozen=True)
class Recipe(Generic[Config]):
    """Everything that a recipe's command and `finetune plan` need."""

    config: type[Config]
    tune: Callable[[Config], Sequence[Stage]]
    captions: Callable[[Config], Captions] = lambda config: config.data.captions
    """Where the captions of the dataset come from."""
    unread: Callable[[Config], str] = lambda config: "data.captions is none"
    """Why captions beside the images are not read."""
    class_captions: Callable[[Config], Captions] = lambda config: "listed"
    """Where the captions of class images in data.folders come from."""
    method: Callable[[Config], object] | None = None
    """The `TuningMethod`, for a plan of its memory; None where a run has several."""
    planned: Callable[[Config, "Manifest"], Sequence[str]] = lambda config, manifest: ()
    """Further lines of `finetune plan`; raises ValueError as the recipe's command would."""

    def manifest(self, config: Config, kept: "KeptFiles | None" = None) -> "Manifest":
        """Return the checked images of a config. Files that are read are put into `kept`."""
        from finetune.data.kept_files import KeptFiles

        found = self._manifest(config, kept or KeptFiles(cache=config.cache.place))
        return found if config.data.upscale else without_upscaling(found, config.data)

    def _manifest(self, config: Config, kept: "KeptFiles | None") -> "Manifest":
        """Read the images at the sizes that the options ask for."""
        from finetune.data.folders import read_folders  # with numpy and Pillow, which --help does without
        from finetune.data.manifest import configured_manifest

        captions, unread = self.captions(config), self.unread(config)
        if not config.data.folders:
            return configured_manifest(config.data, config.mask, captions, unread, kept)
        sources = captions, self.class_captions(config)
        return read_folders(
            config.data, config.mask, sources, unread, lambda each: held_out_indices(each, config.validation), kept
        )
