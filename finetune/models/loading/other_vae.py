"""Another VAE for the model (`model.vae`), with latents like the base model's."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.models.family import ModelSource
from finetune.models.loading.file_names import under_name
from finetune.models.loading.part_files import PartFiles, files_of, part_files, variants
from finetune.models.loading.single_file import weight_shapes

CONFIG = "config.json"
SCALES = ("scaling_factor", "shift_factor")
"""How latents are brought to a standard deviation of about 1."""


@dataclass(frozen=True)
class VAEFolder:
    """A separate VAE in diffusers layout."""

    source: ModelSource
    part: str
    """Subfolder of the source, empty where it has none."""
    files: PartFiles

    @property
    def folder(self) -> Path:
        """The folder of its config and its weights."""
        return self.files.root / self.part


def base_config(source: ModelSource) -> dict[str, object]:
    """Return the config of the base model's own VAE."""
    file = part_files(replace(source, vae=None), "vae", has_weights=False).root / "vae" / CONFIG
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def in_original_layout(source: ModelSource) -> bool:
    """Recognise a single file with the names of the first published models. It may be a VAE alone or a whole model."""
    return is_file(source) and not any(".down_blocks." in name for name in weight_shapes(Path(str(source.vae))))


def is_file(source: ModelSource) -> bool:
    """Tell files from folders; ValueError where neither exists."""
    assert source.vae is not None
    path = Path(source.vae)
    if not path.exists() and (len(path.parts) != 2 or path.is_absolute() or path.suffix == ".safetensors"):
        raise FileNotFoundError(f"model.vae: no file or folder {path}, and a Hub id has the form owner/name.")
    return path.is_file()


@contextmanager
def naming_option() -> Iterator[None]:
    """Make refusals of models within it name `model.vae` as the option."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("model.source:", "model.vae:", 1)) from error


@contextmanager
def placed(source: ModelSource) -> Iterator[VAEFolder]:
    """Find a VAE in diffusers layout. Within it, a single file is in a folder, with the config of the base's VAE."""
    assert source.vae is not None
    with naming_option():
        if is_file(source):
            configs = part_files(source, "vae", has_weights=False).root
            with tempfile.TemporaryDirectory() as folder:
                under_name(Path(source.vae), Path(folder, "diffusion_pytorch_model.safetensors"))
                shutil.copyfile(configs / "vae" / CONFIG, f"{folder}/{CONFIG}")
                yield VAEFolder(ModelSource(source.vae, config=configs), "", PartFiles(Path(folder)))
            return
        other = ModelSource(source.vae)
        names = files_of(other).names
        part = "" if CONFIG in names else "vae"
        if not {CONFIG, f"vae/{CONFIG}"} & names and Path(source.vae).is_dir():
            raise ValueError(
                f"model.vae: {source.vae} has no {CONFIG}, expected a VAE in diffusers layout or its pipeline."
            )
        if source.variant in variants(names, part):
            other = replace(other, variant=source.variant)
        yield VAEFolder(other, part, part_files(other, part, has_weights=True))


def vae_paths(source: ModelSource) -> list[Path]:
    """Return the files of a separate VAE; none for the model's own."""
    if source.vae is None:
        return []
    if is_file(source):
        return [Path(source.vae)]
    with placed(source) as place:
        return [path for ending in ("json", "safetensors") for path in place.folder.glob(f"*.{ending}")]


def refuse_other_latents(config: Mapping[str, object], source: ModelSource) -> None:
    """Raise ValueError for latents of another shape than the base model's."""
    base = base_config(source)
    for name, words in (("latent_channels", "latent channels"), ("block_out_channels", "levels")):
        found, expected = (size(settings.get(name)) for settings in (config, base))
        if None not in (found, expected) and found != expected:
            raise ValueError(
                f"model.vae: {source.vae} has {found} {words}, expected {expected} as in the VAE of {source.configs}. "
                "Use a VAE of the same base model."
            )


def size(value: object) -> object:
    """Return a number or a list's length, None without a setting."""
    return len(value) if isinstance(value, list | tuple) else value


def vae_warnings(source: ModelSource) -> list[str]:
    """Return the warnings about a separate VAE."""
    if source.vae is None or is_file(source):
        return []
    with placed(source) as place:
        config, base = json.loads((place.folder / CONFIG).read_text(encoding="utf-8")), base_config(source)
    differing = [
        f"{name} {config[name]} instead of {base[name]}"
        for name in SCALES
        if name in config and name in base and config[name] != base[name]
    ]
    if not differing:
        return []
    return [
        f"model.vae: {source.vae} has {', '.join(differing)}. Latents of another scale are noise to the base model; is "
        "the VAE made for it?"
    ]
