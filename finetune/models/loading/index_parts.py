"""Compare the classes that a model's files name for its parts. They must be those that are trained."""

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from finetune.json_text import parse_json


def refuse_other_class(kind: type, index: Mapping[str, object], folder: Path, part: str) -> None:
    """Raise ValueError if model_index.json or a config names another class. A missing part is refused too. The class of
    a text encoder may differ: its layers are compared by name, and a projection that is not read is harmless."""
    entry = index.get(part)
    where = f"model.source: model_index.json of {folder}"
    again = "that was published with the model"
    if not (isinstance(entry, list) and len(entry) == 2 and entry[1] is not None):
        advice = f"Put back the model_index.json {again}"
        if part == "vae":
            advice += f", or give a VAE with --model.vae, such as {folder / part}"
        raise ValueError(f"{where} names no {part}, expected {kind.__name__}. {advice}.")
    if issubclass(kind, PreTrainedModel):
        return
    if entry != ["diffusers", kind.__name__]:
        named = ".".join(map(str, entry))
        raise ValueError(
            f"{where} names {named} as {part}, expected diffusers.{kind.__name__}. Put back the file {again}, or "
            "choose another model."
        )
    stated = stated_class(folder / part / "config.json")
    if stated not in (None, kind.__name__):
        raise ValueError(
            f"model.source: {part}/config.json of {folder} is that of a {stated}, expected {kind.__name__} as in "
            f"model_index.json. Put back the files of {part} {again}."
        )


def stated_class(config_file: Path) -> object:
    """Return the class that a part's config.json names, or None. An unreadable one is refused on loading."""
    try:
        config = parse_json(config_file.read_text(encoding="utf-8"))
        return config.get("_class_name") if isinstance(config, dict) else None
    except (OSError, ValueError):
        return None
