"""Several folders of another trainer's config as data.folders; torch-free."""

from collections.abc import Iterable, Mapping, Sequence

from finetune.config.trainers.tables import is_off, spelled_value
from finetune.config.trainers.values import CONVERSIONS
from finetune.data.captions.names import JSON_SUFFIX, TEXT_SUFFIXES
from finetune.imports.folder_notes import FROM_PROMPT, OF_CLASS, STRENGTH, caption_strategy
from finetune.imports.given import Folder, Given, class_prompt
from finetune.imports.samples import caption_files
from finetune.imports.translate import Translation, hidden
from finetune.imports.write import flow_text

WORDS: Mapping[str, str] = {
    "caption_prefix": "caption_prefix",
    "caption_suffix": "caption_suffix",
    "trigger_word": "trigger",
    "loss_multiplier": "weight",
    "loss_weight": "weight",
    "mask_path": "mask_folder",
    "conditioning_data_dir": "mask_folder",
}
"""Options of single folders, and ours in data.folders."""
CAPTION = ("class_tokens", "default_caption")
"""Captions of images without one."""
ONE_CAPTION = ("instance_prompt",)
"""The caption of all images, where a strategy or switch beside it says so."""
COUNTED = (
    *("num_repeats", "repeats", "balancing", "balancing_strategy", "probability", "is_reg", "is_regularisation_data"),
    *("folder_path", "dataset_path", "image_dir", "instance_data_dir", "dataset_name", "path", "name", "id", "type"),
    *("enabled", "seed", "default", "cache_dir_vae", "include_subdirectories", "resolution", STRENGTH),
    *("caption_strategy", "only_instance_prompt", *ONE_CAPTION),
)
TAKEN = frozenset((*COUNTED, *WORDS, *CAPTION, *ONE_CAPTION))
"""Options that are read elsewhere, or have no meaning here."""
RESOLUTIONS = {
    "sd-scripts": "resolution",
    "ai-toolkit": "resolutions",
    "SimpleTuner": "area",
    "OneTrainer": "resolution",
}
"""Conversions of the resolution of one of their folders, by trainer."""
EXTENSIONS = ("caption_ext", "caption_extension")
DEFAULT_RESOLUTIONS = {"ai-toolkit": 512, "SimpleTuner": 1024}
"""Theirs of a folder where neither it nor the global option says one; that of another folder never holds for it."""
MOST_FACTOR = 20
UNREAD = ("concept_stats", "image.resolution_override", "image.enable_resolution_override")


def without_folder_options(given: Given) -> dict[str, object]:
    """Return the options without those that each entry of data.folders has."""
    of_folders = {*WORDS, *CAPTION, *ONE_CAPTION, "only_instance_prompt", "caption_strategy"}
    of_folders |= {STRENGTH, "num_repeats", "repeats", "balancing", "probability"}
    prompt = given.options.get("instance_prompt")
    is_taken = any(prompt_of_all(folder, given) == prompt for folder in given.folders)
    names = {key: key.rpartition(".")[2] for key in given.options}
    prefixes = ("datasets.", "concept.", "backend.")
    return {
        key: value
        for key, value in given.options.items()
        if not (names[key] in of_folders and (key.startswith(prefixes) or given.table.name == "sd-scripts"))
        and not (is_taken and key in ("instance_prompt", "caption_strategy"))
    }


def put_several(found: Translation, given: Given) -> None:
    """Set data.folders, with a line per folder and per difference."""
    listed = [folder for folder in given.folders if folder.path]
    repeats = whole_repeats([folder.repeats for folder in listed])
    shares = shares_of(listed)
    weight = given.options.get("prior_loss_weight")
    if any(folder.is_class for folder in listed) and weight is not None:
        found.idle = [key for key in found.idle if key != "prior_loss_weight"]
        found.same.append(f"prior_loss_weight {weight} -> weight {weight} of class images in data.folders")
    if "resolution" in found.idle and any("resolution" not in folder.options for folder in listed):
        found.idle = [key for key in found.idle if key != "resolution"]
        found.same.append(f"resolution {given.options['resolution']} -> resolution of folders without one")
    entries: list[dict[str, object]] = []
    for folder, times, share in zip(listed, repeats, shares, strict=True):
        entry: dict[str, object] = {"folder": folder.path}
        if share is not None:
            entry["share"] = share
        elif times != 1:
            entry["repeats"] = times
        if folder.is_class:
            entry |= {"is_regularisation": True} | ({} if weight is None else {"weight": float(str(weight))})
        entry |= own_options(folder, given, found)
        entries.append(entry)
        told = ", ".join(f"{key} {hidden(key, value)}" for key, value in folder.options.items() if is_told(key, value))
        found.same.append(
            f"{folder.where} {folder.path}{f' ({told})' if told else ''} -> data.folders {flow_text(entry)}"
        )
    if any(folder.is_class for folder in listed):
        found.differs.append(
            "class images in data.folders are half of all samples, whatever their repeats; weight is their weight."
        )
    if any(times != folder.repeats for folder, times in zip(listed, repeats, strict=True)) and not any(shares):
        found.differs.append("repeats are whole numbers here: those of all folders are multiplied alike.")
    found.settings["data.folders"], found.origins["data.folders"] = entries, "one entry for each of their folders"
    found.settings.pop("data.folder", None)
    found.absent += differing(listed)


def own_options(folder: Folder, given: Given, found: Translation) -> dict[str, object]:
    """Return the options of an entry besides place and number."""
    entry: dict[str, object] = {}
    for theirs, ours in WORDS.items():
        value = folder.options.get(theirs)
        is_words = ours in ("caption_prefix", "caption_suffix", "trigger")
        if not is_off(value) and not (folder.is_class and ours in ("trigger", "mask_folder")):
            entry[ours] = str(value) if is_words or ours == "mask_folder" else float(str(value))
    if "mask_folder" in entry:
        found.settings["mask.kind"], found.origins["mask.kind"] = "file", "masks of single folders"
        found.settings.pop("mask.folder", None)
    if entry.get("weight") == 1:
        del entry["weight"]
    resolution = _resolution(folder, given)
    if resolution is not None and resolution != found.settings.get("data.resolution"):
        entry["resolution"] = resolution
    caption = caption_of(folder, given)
    if caption is not None:
        entry["caption"] = caption
    return entry


def prompt_of_all(folder: Folder, given: Given) -> str | None:
    """Return the one prompt for all images of a folder."""
    prompts = (options.get(key) for options in (folder.options, given.options) for key in ONE_CAPTION)
    prompt = next((each for each in prompts if each), None)
    is_taken = caption_strategy(folder, given) in FROM_PROMPT or not is_off(folder.options.get("only_instance_prompt"))
    return str(prompt) if prompt is not None and is_taken and given.table.name == "SimpleTuner" else None


def caption_of(folder: Folder, given: Given) -> str | None:
    """Return one caption for a folder whose images have none."""
    prompt = prompt_of_all(folder, given)
    if prompt is not None:
        return prompt
    caption = next((folder.options.get(key) for key in CAPTION if folder.options.get(key)), None)
    if has_captions(folder.path):
        return None
    if caption is None and folder.is_class:
        return class_prompt(folder)
    return None if caption is None else str(caption)


def has_captions(path: str) -> bool:
    """Tell if there are text files in a folder."""
    return bool(caption_files(path))


def _resolution(folder: Folder, given: Given) -> int | None:
    value = folder.options.get("resolution")
    if not is_off(folder.options.get("image.enable_resolution_override")):
        value = folder.options.get("image.resolution_override")
    conversion = RESOLUTIONS.get(given.table.name)
    if value in (None, "") and given.table.name in DEFAULT_RESOLUTIONS:
        value = given.options.get("resolution") or DEFAULT_RESOLUTIONS[given.table.name]
    if value in (None, "") or conversion is None:
        return None
    try:
        return int(str(CONVERSIONS[conversion](value)))
    except (ValueError, TypeError):
        return None


def whole_repeats(repeats: Sequence[float]) -> list[int]:
    """Return whole numbers in the ratio of theirs. They are within 1 % where a small factor gives it."""
    numbers = [max(float(each), 0.0) or 1.0 for each in repeats]
    counts = range(1, MOST_FACTOR + 1)
    for factor in (*counts, *(count / min(numbers) for count in counts)):
        whole = [max(1, round(number * factor)) for number in numbers]
        if all(abs(times / (number * factor) - 1) <= 0.01 for times, number in zip(whole, numbers, strict=True)):
            return whole
    return [round(number * MOST_FACTOR / min(numbers)) for number in numbers]


def shares_of(folders: Sequence[Folder]) -> list[float | None]:
    """Return shares where probabilities choose the folder, which differ."""
    given = [float(str(folder.options.get("probability", 1) or 1)) for folder in folders]
    if any(folder.is_class for folder in folders) or len(set(given)) < 2:
        return [None] * len(folders)
    return [round(each / sum(given), 4) for each in given]


def is_told(key: str, value: object) -> bool:
    """Choose the options that the line of a folder names."""
    if key == "balancing_strategy":
        return spelled_value(value) == "samples"
    return not is_off(value) and (
        key in WORDS or key in (*CAPTION, *ONE_CAPTION) or key in ("num_repeats", "repeats", "balancing")
    )


def of_class_images(given: Given) -> list[str]:
    """Name options of class images beside a single folder. They have only a weight of their own."""
    lines: list[str] = []
    first = next((folder.options for folder in given.folders if not folder.is_class), {})
    for folder in [folder for folder in given.folders if folder.is_class]:
        for key in sorted({"resolution", *WORDS} & set(folder.options) - set(OF_CLASS)):
            value = folder.options[key]
            is_weight = WORDS.get(key) == "weight"
            if not is_off(value) and not _alike(1 if is_weight else first.get(key), value):
                why = "prior.weight is theirs" if is_weight else "they have none of their own here"
                lines.append(f"{folder.where} {folder.path}: {key} {hidden(key, value)} of class images: {why}.")
    return lines + (differing(given.folders) if len(given.folders) > 1 else [])


def differing(folders: Iterable[Folder]) -> list[str]:
    """Name options that differ from those of the first folder."""
    listed = list(folders)
    first = next((folder.options for folder in listed if not folder.is_class), listed[0].options)
    lines: list[str] = []
    for folder in listed:
        for key in [key for key in {**first, **folder.options} if key not in TAKEN and not key.startswith(UNREAD)]:
            is_read = key in EXTENSIONS and _is_read(first.get(key)) and _is_read(folder.options.get(key))
            if not is_read and not _alike(first.get(key), folder.options.get(key)):
                lines.append(
                    f"{folder.where} {folder.path}: {key} {_given(folder.options, key)}; that of the first folder "
                    f"holds for all, {_given(first, key)}."
                )
    return lines


def _alike(one: object, other: object) -> bool:
    return spelled_value(one) == spelled_value(other) or (is_off(one) and is_off(other))


def _is_read(extension: object) -> bool:
    """Tell if captions are read from files with an ending."""
    return is_off(extension) or f".{str(extension).lower().lstrip('.')}" in (*TEXT_SUFFIXES, JSON_SUFFIX)


def _given(options: Mapping[str, object], key: str) -> str:
    return hidden(key, options[key]) if key in options else "not given"
