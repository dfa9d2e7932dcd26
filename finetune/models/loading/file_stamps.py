"""Names, sizes and times of a model's files."""

from pathlib import Path

from finetune.models.family import ModelSource
from finetune.models.loading.hub import hub_file
from finetune.models.loading.other_vae import vae_paths

Stamps = list[tuple[str, int, int, int]]
"""Path, size, time of the last write and of the last change of a file, in nanoseconds."""


def file_stamps(source: ModelSource) -> Stamps:
    """Return size and time of every file of the model. That is weights and configs of any part."""
    if source.is_single_file:
        paths = [Path(source.location), *Path(source.configs).glob("*/*.json")]
    else:
        folder = Path(source.location)
        folder = folder if folder.is_dir() else hub_file(source, "model_index.json").parent
        paths = [path for ending in ("safetensors", "json") for path in folder.glob(f"*/*.{ending}")]
    paths += vae_paths(source)
    stats = [(str(path), path.stat()) for path in sorted(paths) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
