"""Differences in how folders are read, in words; torch-free."""

import posixpath
from collections.abc import Iterator

from finetune.config.trainers.tables import is_off, spelled_value
from finetune.imports.given import Folder, Given
from finetune.imports.samples import caption_files, images_in
from finetune.imports.translate import hidden
from finetune.plurals import plural

CAPTIONS_READ = "captions are read beside the images, from NAME.txt, NAME.caption, NAME.json or metadata.jsonl"
FROM_NAMES = "python -m datasets_prep --captions.captioner file_name makes captions from names"
BESIDE, FROM_PROMPT = "textfile", ("instanceprompt", "instance_prompt")
STRENGTH = "network_weight"
"""Strength of ai-toolkit's LoRA for the images of a folder."""
OF_CLASS = {
    "mask_path": "class images are trained on as a whole.",
    "conditioning_data_dir": "class images are trained on as a whole.",
    "trigger_word": "class images lack the trigger.",
}
"""What class images never have."""


def caption_strategy(folder: Folder, given: Given) -> str:
    """Return SimpleTuner's source of a backend's captions; empty for other trainers."""
    if given.table.name != "SimpleTuner":
        return ""
    return spelled_value(folder.options.get("caption_strategy") or given.options.get("caption_strategy") or "filename")


def notes_on_folders(given: Given) -> list[str]:
    """Name what folders have that is read otherwise here."""
    lines = [line for folder in given.folders for line in _notes(folder, given)]
    for folder in given.folders:
        for key, why in OF_CLASS.items():
            value = folder.options.get(key)
            if folder.is_class and not is_off(value):
                lines.append(f"{folder.where} {folder.path}: {key} {hidden(key, value)}: {why}")
    return lines


def _notes(folder: Folder, given: Given) -> Iterator[str]:
    yield from _subfolders(folder, given)
    yield from _captions(folder, given)
    yield from _extension(folder, given)
    strength = folder.options.get(STRENGTH)
    if (given.is_several or folder.is_class) and strength is not None and spelled_value(strength) not in ("1", "1.0"):
        yield (
            f"{folder.where} {folder.path}: {STRENGTH} {strength}: it is the strength of the LoRA for these images; "
            "adapters act at strength 1 in training."
        )
    has_sizes = any("resolution" in each.options for each in given.folders)
    if given.table.name == "sd-scripts" and has_sizes and folder.options and "resolution" not in folder.options:
        yield (
            f"{folder.where} {folder.path}: resolution not given; there the global one holds, here data.resolution. "
            "Give its entry in data.folders a resolution where that is another."
        )


def _subfolders(folder: Folder, given: Given) -> Iterator[str]:
    """Name images in subfolders. OneTrainer reads these only with an option."""
    if given.table.name != "OneTrainer" or not is_off(folder.options.get("include_subdirectories")):
        return
    inner = [name for name in images_in(folder.path) if posixpath.dirname(name)]
    if inner:
        said = "false" if "include_subdirectories" in folder.options else "not given, false there"
        yield (
            f"{folder.where} {folder.path}: include_subdirectories is {said}; here {plural(len(inner), 'image')} in "
            f"{', '.join(sorted({name.partition('/')[0] for name in inner})[:3])} are read too. Move the subfolders "
            "out of the folder, or give a folder without them."
        )


def _extension(folder: Folder, given: Given) -> Iterator[str]:
    """Name caption files that sd-scripts would not read."""
    options = folder.options or given.options
    if given.table.name != "sd-scripts" or {"caption_extension", "caption_extention", "in_json"} & set(options):
        return
    names = caption_files(folder.path)
    if names and not any(name.endswith(".caption") for name in names):
        yield (
            f"{folder.where} {folder.path}: caption_extension not given, .caption there, so {names[0]} and others are "
            "not read there; here they are captions. data.captions folder takes the folder's name instead."
        )


def _captions(folder: Folder, given: Given) -> Iterator[str]:
    """Name captions from other sources, and prompts that are not captions."""
    strategy = caption_strategy(folder, given)
    if strategy in ("", *FROM_PROMPT):
        return
    prompt = folder.options.get("instance_prompt")
    if given.is_several and not is_off(prompt) and is_off(folder.options.get("only_instance_prompt")):
        yield (
            f"{folder.where} {folder.path}: instance_prompt {hidden('instance_prompt', prompt)}: it is a caption with "
            "caption_strategy instanceprompt alone."
        )
    is_named = not given.is_several and {"caption_strategy", "backend.caption_strategy"} & set(given.options)
    if strategy != BESIDE and not is_named and is_off(folder.options.get("only_instance_prompt")):
        given_here = "caption_strategy" in folder.options or "caption_strategy" in given.options
        source = f"caption_strategy {strategy}" if given_here else "caption_strategy not given, filename there"
        hint = f". {FROM_NAMES}" if strategy == "filename" else ""
        yield f"{folder.where} {folder.path}: {source}; {CAPTIONS_READ}{hint}."
