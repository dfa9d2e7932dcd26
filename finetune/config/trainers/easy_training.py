"""Files of the GUI LoRA Easy Training Scripts, as options of sd-scripts."""

from collections.abc import Iterator, Mapping
from typing import cast

SECTIONS = ("general_args", "network_args", "optimizer_args", "saving_args", "bucket_args")
INNER = ("args", "dataset_args")
"""What a section has: options of the script, and of the dataset config."""


def is_easy_training(content: Mapping[str, object]) -> bool:
    """Recognise a file of the GUI by its sections."""
    return sum(bool(set(_section(content, name)) & set(INNER)) for name in SECTIONS) >= 2


def easy_options(content: Mapping[str, object]) -> dict[str, object]:
    """Return the options that the GUI would pass, and its subsets."""
    options = dict(_options(content))
    if content.get("subsets"):
        options["datasets"] = [{"subsets": content["subsets"]}]
    return options


def _section(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = content.get(name)
    return cast(Mapping[str, object], found) if isinstance(found, Mapping) else {}


def _options(content: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name in content:
        for inner in INNER:
            for key, value in _section(_section(content, name), inner).items():
                if isinstance(value, Mapping):
                    yield key, [f"{part}={text}" for part, text in cast(Mapping[str, object], value).items()]
                else:
                    yield "train_batch_size" if key == "batch_size" else key, value
