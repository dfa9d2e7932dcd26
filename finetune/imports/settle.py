"""Folders, consequences, and what our own parser refuses; torch-free."""

import tempfile
from dataclasses import replace
from pathlib import Path

from finetune.config.parse.command_line import flat_types, parse
from finetune.config.parse.recipe_options import RECIPES
from finetune.imports.consequences import drop_unset_variables, put_consequences
from finetune.imports.folder_notes import notes_on_folders
from finetune.imports.folders import of_class_images, put_several, without_folder_options
from finetune.imports.given import FULL, LORA, SUBJECT, TOKENS, Folder, Given, class_prompt
from finetune.imports.length import settle_lengths
from finetune.imports.prompts import with_trigger_in_prompts
from finetune.imports.samples import with_samples_as_repeats
from finetune.imports.translate import Translation, shown, translate
from finetune.imports.write import yaml_text

PLACES = {"model.source": "MODEL", "data.folder": "IMAGES", "output.folder": "OUT"}
NEEDED = {
    LORA: {},
    FULL: {},
    TOKENS: {"tokens.names": "<name>"},
    SUBJECT: {"instance.prompt": "a photo of sks dog", "prior.prompt": "a photo of a dog"},
}
"""What a recipe needs besides, with an example."""


def settled(given: Given) -> tuple[Translation, dict[str, str]]:
    """Translate a config. Also return the options that are still needed, each with an example."""
    given, notes = with_samples_as_repeats(given)
    given, replaced, kept = with_trigger_in_prompts(given)
    found = translate(replace(given, options=without_folder_options(given)) if given.is_several else given)
    if given.is_several:
        put_several(found, given)
    else:
        _put_folders(found, given)
        found.absent += of_class_images(given)
    settle_lengths(found, given)
    for key, value in given.own.items():
        found.put({key: value}, "training_folder, name", f"training_folder, name {value}")
    if given.recipe == SUBJECT:
        _put_subject(found, given)
    put_consequences(found, given)
    found.same += replaced
    found.absent += [*kept, *notes, *notes_on_folders(given), *given.notes]
    drop_unset_variables(found)
    _drop_foreign(found, given)
    return found, _without_refused(found, given)


def _put_folders(found: Translation, given: Given) -> None:
    """Take the folder and that of class images over."""
    own = [folder for folder in given.folders if not folder.is_class and folder.path]
    of_class = [folder for folder in given.folders if folder.is_class and folder.path]
    for listed, key in ((own, "data.folder"), (of_class, "prior.folder")):
        for folder in listed:
            found.put({key: folder.path}, folder.where, f"{folder.where} {folder.path}")


def _put_subject(found: Translation, given: Given) -> None:
    """Set the prompts of a subject and its class."""
    settings = found.settings
    has_captions = "caption_column" in given.options or "instance.prompt" not in settings
    if has_captions:
        settings.pop("instance.prompt", None)
        settings["instance.captions"] = True
        found.origins["instance.captions"] = "captions of the images"
    if given.method == "full":
        settings["method"], found.origins["method"] = "full", "all weights"
    of_class: Folder | None = next((folder for folder in given.folders if folder.is_class), None)
    if of_class is not None and "prior.prompt" not in settings:
        prompt = class_prompt(of_class)
        key, value = ("prior.captions", True) if prompt is None else ("prior.prompt", prompt)
        found.put(
            {key: value},
            of_class.where,
            f"captions of {of_class.path}",
            ("class images make up half of a step here, whatever their repeats; prior.weight is their weight."),
        )


def _drop_foreign(found: Translation, given: Given) -> None:
    """Drop options that the recipe does not have."""
    known = flat_types(RECIPES[given.recipe])
    for key in sorted(set(found.settings) - set(known)):
        others = [recipe for recipe, kind in RECIPES.items() if key in flat_types(kind)]
        value = shown(found.settings.pop(key))
        found.absent.append(
            f"{found.origins[key]} -> {key} {value}: {given.recipe} does not have it, {' and '.join(others)} "
            f"{'does' if len(others) == 1 else 'do'}."
        )


def _needed(found: Translation, given: Given) -> dict[str, str]:
    """Return what the recipe needs and the config does not say."""
    settings = found.settings
    needed = {key: text for key, text in {**PLACES, **NEEDED[given.recipe]}.items() if key not in settings}
    if "data.folders" in settings:
        needed.pop("data.folder", None)
    if settings.get("instance.captions"):
        needed.pop("instance.prompt", None)
    if settings.get("prior.captions") or settings.get("prior.kind") == "none":
        needed.pop("prior.prompt", None)
    if "train.steps" not in settings and any(row.to == "train.steps" for _, row, _ in found.deferred):
        needed["train.steps"] = "1000"
    return needed


def _without_refused(found: Translation, given: Given) -> dict[str, str]:
    """Drop what our parser refuses, with its words. Return what is needed then. Raises ValueError where something else
    is wrong."""
    kind = RECIPES[given.recipe]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imported.yaml"
        while True:
            needed = _needed(found, given)
            flags = [part for key, text in needed.items() for part in (f"--{key}", text)]
            path.write_text(yaml_text(found, given, ()), encoding="utf-8")
            try:
                parse(kind, ["--config", str(path), *flags], program=given.recipe)
                return needed
            except ValueError as error:
                problems = str(error).splitlines()
            dropped = False
            for line in problems:
                for name in line.partition(":")[0].split(", "):
                    for key in [key for key in found.settings if key == name or key.startswith(f"{name}.")]:
                        value = shown(found.settings.pop(key))
                        found.absent.append(f"{found.origins[key]} -> {key} {value}: refused. {line}")
                        dropped = True
            if not dropped:
                raise ValueError(
                    f"import: what was read does not make a config of {given.recipe}.\n" + "\n".join(problems)
                )
