"""The configs of each trainer, read into one form; torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from finetune.config.trainers.easy_training import easy_options, is_easy_training
from finetune.config.trainers.kohya_gui import as_sd_scripts, is_kohya_gui
from finetune.config.trainers.recognise import flat_options
from finetune.config.trainers.tables import is_off, spelled_value, table
from finetune.imports.given import Folder, Given, dotted, named_file

NOT_TRAINING = {
    "generate": "finetune generate",
    "extract": "finetune lora extract",
    "mod": "finetune lora resize, convert or merge",
}
"""Jobs of ai-toolkit that do not train, with what does the same here."""


def read_given(stem: str, content: Mapping[str, object], base: Path) -> Given:
    """Return what a config says. `base` is the folder of its file, where files that it names are searched for."""
    readers = {
        "sd_scripts": _sd_scripts,
        "diffusers": _diffusers,
        "simple_tuner": _simple_tuner,
        "one_trainer": _one_trainer,
        "ai_toolkit": _ai_toolkit,
    }
    return readers[stem](content, base)


def _assignments(options: dict[str, object], key: str) -> None:
    """Replace a list of NAME=VALUE by options KEY.NAME."""
    listed = options.get(key)
    words = listed.split() if isinstance(listed, str) else listed
    if isinstance(words, Sequence) and all("=" in str(word) for word in words):
        del options[key]
        options |= {f"{key}.{name}": value for name, _, value in (str(word).partition("=") for word in words)}


def _sd_scripts(content: Mapping[str, object], base: Path) -> Given:
    names: dict[str, str] = {}
    if is_kohya_gui(content):
        content, names = as_sd_scripts(content)
    elif is_easy_training(content):
        content = easy_options(content)
    options = flat_options({key: value for key, value in content.items() if key not in ("datasets", "general")})
    notes: list[str] = []
    datasets = content
    for key in ("config_file", "dataset_config"):
        if isinstance(options.get(key), str):
            read, wrong = named_file(options[key], base)
            notes += [f"{key}: {line}" for line in wrong]
            if isinstance(read, Mapping):
                del options[key]
                if key == "config_file":
                    options = flat_options(read) | options
                else:
                    datasets = read
    folders = [
        Folder(key, str(options[key]), is_class=is_class)
        for key, is_class in (("train_data_dir", False), ("reg_data_dir", True))
        if options.get(key)
    ]
    more, of_folders = _subsets(datasets)
    options |= of_folders
    for key in ("network_args", "optimizer_args"):
        _assignments(options, key)
    named = str(options.get("script", ""))
    is_lora = (
        "network" in named or bool({"network_module", "network_dim"} & set(options)) or not options.keys() - of_folders
    )
    method = "tokens" if "token_string" in options else "lora" if is_lora else "full"
    family = str(options.get("network_module", "")).partition("networks.lora_")[2]
    if family and not named:  # defaults differ by script
        options["script"] = f"{family}_train_network.py"
    return Given(table("sd_scripts"), options, (*folders, *more), method, tuple(notes), names=names)


def _subsets(content: Mapping[str, Any]) -> tuple[list[Folder], dict[str, object]]:
    """Return the folders of a dataset config with the first's options."""
    general, folders, first = dict(content.get("general", {})), list[Folder](), dict[str, object]()
    for place, dataset in enumerate(content.get("datasets", ())):
        for number, subset in enumerate(dataset.get("subsets", ())):
            own = {**general, **{key: value for key, value in dataset.items() if key != "subsets"}, **subset}
            is_class, path = bool(own.get("is_reg")), str(own.get("image_dir", ""))
            where = f"datasets[{place}].subsets[{number}].image_dir"
            folders.append(Folder(where, path, own.get("num_repeats", 1), is_class, own.get("class_tokens"), own))
            if not is_class and not first:
                first = {"train_batch_size" if key == "batch_size" else key: value for key, value in own.items()}
    return folders, first


def _diffusers(content: Mapping[str, object], base: Path) -> Given:
    options = dict(content)
    script = str(options.get("script", ""))
    folders = [
        Folder(key, str(options[key]))
        for key in ("instance_data_dir", "train_data_dir", "dataset_name")
        if options.get(key)
    ]
    notes: list[str] = []
    of_class = str(options.get("class_data_dir", ""))
    if of_class and Path(of_class).is_dir():
        folders.append(Folder("class_data_dir", of_class, is_class=True))
    elif of_class:
        notes.append(f"class_data_dir {of_class}: no such folder; class images are drawn before training and cached.")
    is_lora = "lora" in script or bool({"rank", "lora_alpha", "use_dora"} & set(options))
    method = "tokens" if "placeholder_token" in options else "lora" if is_lora else "full"
    if "instance_prompt" in options and "caption_column" in options:
        notes.append("instance_prompt: the images have captions (caption_column), which are used instead.")
    return Given(table("diffusers"), options, tuple(folders), method, tuple(notes))


def _one_trainer(content: Mapping[str, object], base: Path) -> Given:
    options = dict(content)
    if isinstance(options.get("optimizer"), str):  # older files
        options["optimizer"] = {"optimizer": options["optimizer"]}
    notes: list[str] = []
    lists = {"concepts": "concept_file_name", "samples": "sample_definition_file_name"}
    for key, file in lists.items():
        if not options.get(key) and options.get(file):
            read, wrong = named_file(options[file], base)
            notes += [f"{file}: {line}" for line in wrong]
            if isinstance(read, list):
                options[key] = read
        if options.get(key):
            options.pop(file, None)
    concepts: Any = options.pop("concepts", None) or []
    used = [part for part in concepts if part.get("enabled", True) and part.get("type", "STANDARD") == "STANDARD"]
    folders = [
        Folder(f"concepts[{number}].path", str(part.get("path", "")), part.get("balancing", 1), options=dotted(part))
        for number, part in enumerate(used)
    ]
    left = [part for part in concepts if part not in used and part.get("enabled", True)]
    notes += [
        f"concept {part.get('path')}: its type {part.get('type')} is not read. validation.fraction holds images out, "
        "and recipes.dreambooth with prior.kind prediction preserves a class."
        for part in left
    ]
    samples = options.pop("samples", None)
    flat = dotted(options) | ({"samples": samples} if samples else {}) | (dotted(used[0], "concept.") if used else {})
    methods = {"EMBEDDING": "tokens", "LORA": "lora"}
    return Given(
        table("one_trainer"), flat, tuple(folders), methods.get(str(options["training_method"]), "full"), tuple(notes)
    )


def _ai_toolkit(content: Mapping[str, Any], base: Path) -> Given:
    config = _named(content["config"], str(content["config"].get("name", "")))
    job = spelled_value(content.get("job", ""))
    if job in NOT_TRAINING:
        raise ValueError(
            f"import: its job is {job}, which does not train; got it of ai-toolkit, expected extension or train. Use "
            f"{NOT_TRAINING[job]}."
        )
    process = dict(config["process"][0])
    datasets = process.pop("datasets", None) or []
    folders = [
        Folder(
            f"datasets[{number}].folder_path",
            str(part.get("folder_path") or part.get("dataset_path") or ""),
            part.get("num_repeats", 1),
            bool(part.get("is_reg")),
            options=dotted(part),
        )
        for number, part in enumerate(datasets)
    ]
    first = next((part for part in datasets if not part.get("is_reg")), {})
    prompts = {key: process.get("sample", {}).get(key) for key in ("prompts", "samples")}
    options = dotted(process) | dotted(first, "datasets.")
    options |= {f"sample.{key}": value for key, value in prompts.items() if value}
    own: dict[str, object] = {}
    if process.get("training_folder") and config.get("name"):
        own["output.folder"] = str(Path(str(process["training_folder"])) / str(config["name"]))
    notes = [
        f"process[{number}]: one job per run; import it from a file of its own."
        for number in range(1, len(config["process"]))
    ]
    method = "lora" if process.get("network") else "tokens" if process.get("embedding") else "full"
    given = Given(table("ai_toolkit"), {"name": config.get("name"), **options}, tuple(folders), method, tuple(notes))
    return replace(given, own=own)


def _named(value: Any, name: str) -> Any:
    """Replace [name] in all texts of a config, as ai-toolkit does."""
    if isinstance(value, str):
        return value.replace("[name]", name) if name else value
    if isinstance(value, list):
        return [_named(each, name) for each in cast(list[object], value)]
    if isinstance(value, Mapping):
        return {key: _named(each, name) for key, each in cast(Mapping[str, object], value).items()}
    return value


def _simple_tuner(content: Mapping[str, object], base: Path) -> Given:
    names = table("simple_tuner").environment
    options = {
        names.get(key, key.lower() if key.isupper() else key): value for key, value in flat_options(content).items()
    }
    notes: list[str] = []
    folders: list[Folder] = []
    if options.get("lycoris_config") and spelled_value(options.get("lora_type", "")) == "lycoris":
        read, wrong = named_file(options["lycoris_config"], base)
        notes += [f"lycoris_config: {line}" for line in wrong]
        if isinstance(read, Mapping):
            del options["lycoris_config"]
            options |= {f"lycoris.{key}": value for key, value in read.items()}
    if options.get("data_backend_config"):
        read, wrong = named_file(options["data_backend_config"], base)
        notes += [f"data_backend_config: {line}" for line in wrong]
        if isinstance(read, list):
            del options["data_backend_config"]
            folders, of_first, more = _backends(read)
            notes += more
            options |= of_first
    has_rank = any(key.startswith(("lora_", "lycoris")) for key in options)
    method = "lora" if str(options.get("model_type", "lora" if has_rank else "full")) == "lora" else "full"
    return Given(table("simple_tuner"), options, tuple(folders), method, tuple(notes))


def _backends(backends: Sequence[Any]) -> tuple[list[Folder], dict[str, object], list[str]]:
    """Return the folders, the options of the first, and notes on others."""
    used = [part for part in backends if part.get("dataset_type", "image") == "image" and is_off(part.get("disabled"))]
    notes = [
        f"backend {part.get('id')}: its images are not read. recipes.dreambooth with prior.kind prediction preserves a "
        "class."
        for part in used
        if part.get("is_regularisation_data")
    ]
    used = [part for part in used if not part.get("is_regularisation_data")]
    remote = [part for part in used if part.get("type", "local") not in ("local", "huggingface")]
    notes += [
        f"backend {part.get('id')}: its type {part.get('type')} is not read. Copy its images here." for part in remote
    ]
    used = [part for part in used if part not in remote]
    folders = [
        Folder(
            f"backend {part.get('id')}.instance_data_dir",
            str(part.get("instance_data_dir") or part.get("dataset_name") or ""),
            1 + part.get("repeats", 0),  # there 0 is once
            options=dotted(part),
        )
        for part in used
    ]
    return folders, dotted(used[0], "backend.") if used else {}, notes
