"""Files of kohya_ss, the GUI of sd-scripts, as its options; torch-free."""

import shlex
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any

from finetune.config.trainers.command_lines import read_arguments
from finetune.config.trainers.tables import FOLDER, is_off

NAME = "kohya_ss, the GUI of sd-scripts"
LORA_TYPE = "LoRA_type"
LYCORIS = "lycoris/"


@cache
def _facts() -> Mapping[str, Any]:
    return tomllib.loads((FOLDER / "kohya_gui.toml").read_text(encoding="utf-8"))


def is_kohya_gui(content: Mapping[str, object]) -> bool:
    """Recognise a file of the GUI by its own names."""
    return LORA_TYPE in content or len(set(_facts()["marks"]) & set(content)) >= 4


def as_sd_scripts(content: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str]]:
    """Return the options that the GUI would pass. Also return their names by those of the GUI. Fields that are empty or
    0, and those of models that are not chosen, are omitted, as it does. Raises ValueError for unclear parameters."""
    chosen: list[dict[str, Any]] = [each for each in _facts()["models"] if not is_off(content.get(each["checkbox"]))]
    model: Mapping[str, Any] = chosen[0] if chosen else {}
    kept = {key: value for key, value in _of_model(content, model).items() if not is_off(value)}
    network = _network(kept, model) if LORA_TYPE in content else {}
    options: dict[str, object] = {"script": _script(content, model.get("script", ""))}
    names: dict[str, str] = {}
    for key, value in kept.items():
        if not _is_elsewhere(key, value):
            name, text = _passed(key, value)
            options[name] = text
            if name != key:
                names[key] = name
    options |= network
    for key, name, value in _lengths(kept):
        options[name], names[key] = value, name
    if LORA_TYPE in content:
        names[LORA_TYPE] = "network_module"
        rates = {"unet_lr": "network_train_text_encoder_only", "text_encoder_lr": "network_train_unet_only"}
        absent = [key for key in rates if key not in kept]
        options |= {rates[key]: True for key in absent if len(absent) == 1}
    if content.get("noise_offset_type") in ("Original", "Multires"):
        unused = "multires_noise" if content["noise_offset_type"] == "Original" else "noise_offset"
        options = {key: value for key, value in options.items() if not key.startswith(unused)}
    return options | _additional(str(kept.get("additional_parameters", ""))), names


def _additional(text: str) -> dict[str, object]:
    """Read the arguments that the GUI adds as they are."""
    try:
        return read_arguments(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"import: additional_parameters {text}: {error}. Mend it in the file.") from None


def _of_model(content: Mapping[str, object], model: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields of the chosen model and of all. Those of one model lose their prefix."""
    others = [each for each in _facts()["models"] if each["prefix"] != model.get("prefix")]
    unused = {name for each in others for name in each.get("fields", ())} - set(model.get("fields", ()))
    boxes = {each["checkbox"] for each in _facts()["models"]}
    found: dict[str, object] = {}
    for key, value in content.items():
        if key not in boxes | unused and not key.startswith(tuple(each["prefix"] for each in others)):
            found[key.removeprefix(model.get("prefix", ""))] = value
    return found


def _script(content: Mapping[str, object], prefix: str) -> str:
    if LORA_TYPE in content:
        return f"{prefix}train_network.py"
    if "token_string" in content:
        return f"{prefix}train_textual_inversion.py"
    return f"{prefix}train.py" if prefix else "fine_tune.py" if "image_folder" in content else "train_db.py"


def _is_elsewhere(key: str, value: object) -> bool:
    """Check for a field that is not passed, or becomes another option."""
    facts = _facts()
    places = ("not_passed", "network_arguments", "lycoris_arguments", "kind_arguments")
    return any(key in facts[place] for place in places) or (key == "dynamo_backend" and value == "no")


def _passed(key: str, value: object) -> tuple[str, object]:
    """Return an option of sd-scripts for a field with a value."""
    if key == "xformers":
        return ("sdpa" if value == "sdpa" else key), True
    if key == "use_wandb":
        return "log_with", "wandb"
    if key == "sample_prompts":
        lines = [line.strip() for line in str(value).splitlines()]
        return key, [line for line in lines if line and not line.startswith("#")]
    if key in ("optimizer_args", "lr_scheduler_args"):
        return key, str(value).replace('"', "")
    return _facts()["renamed"].get(key, key), value


def _lengths(kept: Mapping[str, object]) -> list[tuple[str, str, object]]:
    """Return the fields about length. Each has its option of sd-scripts and the value there."""
    found: list[tuple[str, str, object]] = []
    epochs = kept.get("epoch")
    if epochs and kept.get("lr_scheduler") == "cosine_with_restarts" and "lr_scheduler_num_cycles" not in kept:
        found.append(("epoch", "lr_scheduler_num_cycles", epochs))
    if epochs and not {"max_train_steps", "max_train_epochs", "dataset_config"} & set(kept):
        found.append(("epoch", "max_train_epochs", epochs))
    if "lr_warmup_steps" not in kept and "lr_warmup" in kept:
        found.append(("lr_warmup", "lr_warmup_steps", _share(kept["lr_warmup"])))
    return found


def _share(percent: object) -> object:
    """Return a percentage as a share; other text as it is."""
    try:
        return float(str(percent)) / 100
    except ValueError:
        return percent


def _network(kept: Mapping[str, object], model: Mapping[str, Any]) -> dict[str, object]:
    """Return the module of a kind of LoRA and its arguments."""
    kind = str(kept.get(LORA_TYPE, "Standard"))
    lowered = kind.lower()
    is_lycoris = lowered.startswith(LYCORIS) or kind == "LoCon"
    found: dict[str, object] = {}
    if is_lycoris:
        found["network_module"] = "lycoris.kohya"
        found["network_args.algo"] = _facts()["algorithms"].get(lowered, lowered.removeprefix(LYCORIS))
        found["network_args.preset"] = kept.get("LyCORIS_preset", "full")
    else:
        found["network_module"] = _facts()["modules"].get(kind, model.get("module", "networks.lora"))
    for key in kept:
        if key in _facts()["kind_arguments"]:
            acts = _facts()["kind_arguments"][key] in lowered
        elif key in _facts()["lycoris_arguments"]:
            acts = is_lycoris
        else:
            acts = is_lycoris or not key.startswith("conv_") or kind.startswith("Kohya ")
            acts = acts and key in _facts()["network_arguments"]
        if acts:
            found[f"network_args.{key}"] = kept[key]
    return found
