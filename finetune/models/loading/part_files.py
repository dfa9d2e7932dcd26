"""Choose the files of a model's part, and their variant.

A part is always read from a folder: that of the model, or its snapshot in the Hub's cache. So no library downloads
other files than these, and no request is made where all of them are cached.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

from finetune.json_text import parse_json
from finetune.models.family import ModelSource
from finetune.models.loading.hub import NOT_ANSWERED, ModelListing, downloaded, hub_refusal, listed

DIFFUSERS_STEM, TRANSFORMERS_STEM = "diffusion_pytorch_model", "model"
"""How the names of files with a part's weights begin."""
SMALL = (".json", ".txt", ".model")
"""Endings of configs and vocabularies."""
ADVICE = "Choose another model or variant, or convert it to a local folder"


@dataclass(frozen=True)
class PartFiles:
    """The folder and files of a part."""

    root: Path
    """The folder that has the part as a subfolder."""
    variant: str | None = None
    """The variant of the weights that is read."""


def part_files(source: ModelSource, part: str, *, has_weights: bool) -> PartFiles:
    """Find a part, and download its files from the Hub. Raises ValueError with one sentence where that fails."""
    if source.is_single_file:
        return PartFiles(Path(source.configs))
    listing = files_of(source)
    if not Path(source.location).is_dir():
        return hub_part_files(source, part, has_weights)
    return PartFiles(Path(source.location), part_variant(source, part, listing) if has_weights else None)


@cache
def hub_part_files(source: ModelSource, part: str, has_weights: bool) -> PartFiles:
    """Find a part of a Hub model, once in a process. Runs read their parts again at any time."""
    listing = files_of(source)
    variant = part_variant(source, part, listing) if has_weights else None
    names = small_files(listing.names, part) | (weight_files(listing.names, part, variant) if has_weights else set())
    missing = f"{part}{with_weights(source.variant) if has_weights else ''}. {ADVICE}"
    if has_weights and listing.is_cached:
        names |= {str(PurePosixPath(part, "config.json"))}
    if not names or (has_weights and not variants(names, part)):
        absent = LocalEntryNotFoundError("") if listing.is_cached else EntryNotFoundError("")
        raise hub_refusal(absent, source, missing)
    try:
        root = listing.folder or downloaded(source.location, source.revision, names)
    except NOT_ANSWERED as error:
        raise hub_refusal(error, source, missing) from error
    absent = absent_files(root, part, names)
    if absent and not listing.is_cached and absent[0] not in listing.names:
        raise hub_refusal(EntryNotFoundError(""), source, f"{absent[0]}, which its index names. {ADVICE}")
    if absent:
        text = hub_refusal(LocalEntryNotFoundError(""), source, missing)
        raise ValueError(f"{text} The first file that is missing: {absent[0]}.")
    return PartFiles(root, variant)


def with_weights(variant: str | None) -> str:
    """Return the end of a sentence on a part without weights."""
    return f" with safetensors weights{f' of the variant {variant}' if variant else ''}"


def files_of(source: ModelSource) -> ModelListing:
    """List the files of a folder or Hub model. Raises ValueError with one sentence where the Hub does not answer."""
    folder = Path(source.location)
    if folder.is_dir():
        paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
        return ModelListing(frozenset(path.relative_to(folder).as_posix() for path in paths), folder)
    try:
        return listed(source.location, source.revision)
    except (*NOT_ANSWERED, HFValidationError) as error:
        raise hub_refusal(error, source, f"files. {ADVICE}") from error


def is_weights(name: str) -> bool:
    """Recognise safetensors files and indices that a part's class reads."""
    stem, *ends = PurePosixPath(name).name.split(".")
    return stem.partition("-")[0] in (DIFFUSERS_STEM, TRANSFORMERS_STEM) and "safetensors" in ends


def variant_of(name: str) -> str | None:
    """Return fp16 for NAME.fp16.safetensors, NAME.fp16-00001-of-00002.safetensors and
    NAME.safetensors.index.fp16.json, None for no variant."""
    _, *ends = PurePosixPath(name).name.split(".")
    others = [end.partition("-")[0] for end in ends if end not in ("safetensors", "index", "json")]
    return others[0] if others else None


def variants(names: Iterable[str], part: str) -> set[str | None]:
    """Return the variants of a part's weights. None is the one without a name."""
    return {variant_of(name) for name in inside(names, part) if is_weights(name) and name.endswith(".safetensors")}


def inside(names: Iterable[str], part: str) -> list[str]:
    """Return the files of a part."""
    return [name for name in names if PurePosixPath(name).parent == PurePosixPath(part)]


def part_variant(source: ModelSource, part: str, listing: ModelListing) -> str | None:
    """Choose the option's variant of a part, else the existing one. Raises ValueError where no part has that of
    the option, or this one several others."""
    found = variants(listing.names, part)
    refuse_unknown_variant(source, listing)
    if source.variant in found or not found:
        return source.variant
    if None in found:
        return None
    if len(found) == 1:
        return found.pop()
    raise ValueError(
        f"model.variant: {part} of {source.location} has weights of the variants {', '.join(sorted(map(str, found)))}. "
        "Use one of them."
    )


def refuse_unknown_variant(source: ModelSource, listing: ModelListing) -> None:
    """Raise ValueError for a variant that no part of the model has."""
    known = {variant_of(name) for name in listing.names if is_weights(name)}
    if source.variant is None or source.variant in known:
        return
    missing = f"weights of the variant {source.variant}"
    if listing.is_cached:
        raise hub_refusal(LocalEntryNotFoundError(""), source, missing)
    others = sorted(variant for variant in known if variant is not None)
    advice = f"Use one that it has ({', '.join(others)}), or omit the option." if others else "Omit the option."
    raise ValueError(f"model.variant: {source.location} has no {missing}. {advice}")


def small_files(names: Iterable[str], part: str) -> set[str]:
    """Return the names of a part's configs and vocabularies."""
    return {name for name in inside(names, part) if name.endswith(SMALL) and not is_weights(name)}


def weight_files(names: Iterable[str], part: str, variant: str | None) -> set[str]:
    """Return a part's weight files in one variant, with their index."""
    weights = {name for name in inside(names, part) if is_weights(name) and variant_of(name) == variant}
    shards = {name for name in weights if "-of-" in name or ".index." in name}
    # Where both are there, diffusers reads the shards and transformers the one file.
    whole = set() if any(PurePosixPath(name).name.startswith(DIFFUSERS_STEM) for name in shards) else weights - shards
    return whole or shards


def absent_files(root: Path, part: str, names: Iterable[str]) -> list[str]:
    """Return the missing files of a part, shards of its index too."""
    wanted = {*names}
    for name in [name for name in names if ".index." in name and (root / name).is_file()]:
        wanted |= {str(PurePosixPath(part, shard)) for shard in weight_map(root / name).values()}
    return sorted(name for name in wanted if not (root / name).is_file())


def weight_map(index: Path) -> dict[str, str]:
    """Return the file of each weight from an index. Raises ValueError if it is not valid."""
    try:
        files = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        if not (files and all(isinstance(file, str) for file in files.values())):
            raise ValueError("weight_map is not the files of all weights")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"model.source: {index} is not a valid index of weights ({type(error).__name__}: {error}). Download it "
            "again."
        ) from error
    return files


def variant_warnings(source: ModelSource, parts: Iterable[str]) -> list[str]:
    """Return one sentence on parts in another variant than the option's."""
    if source.is_single_file:
        return []
    listing = files_of(source)
    read = {part: part_variant(source, part, listing) for part in parts if variants(listing.names, part)}
    others = [f"{part} ({variant or 'no variant'})" for part, variant in read.items() if variant != source.variant]
    if not others:
        return []
    expected = f"of the variant {source.variant}" if source.variant else "without a variant"
    return [
        f"model.variant: {source.location} does not have weights {expected} for all parts; read instead: "
        f"{', '.join(others)}."
    ]
