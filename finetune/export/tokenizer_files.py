"""Files that let transformers 4 read a pipeline's tokenizers.

transformers 5 saves `tokenizer.json` alone, and writes settings and class names that transformers 4 does not load.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.models.family import ModelSource
from finetune.models.loading.part_files import part_files

SENTENCEPIECE = "spiece.model"


def add_files_for_transformers_4(folder: Path, source: ModelSource | None = None) -> list[str]:
    """Complete the tokenizers in a folder; return those without `spiece.model`. Without that file transformers 4 reads
    them as the pipeline names them, but not as `T5Tokenizer`."""
    index_file, incomplete = folder / "model_index.json", []
    index = json.loads(index_file.read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*/tokenizer.json")):
        part, rules = path.parent.name, json.loads(path.read_text(encoding="utf-8"))
        keep_special_tokens_readable(path.with_name("tokenizer_config.json"))
        if rules["model"]["type"] == "BPE":
            write_byte_pairs(path.parent, rules["model"]["vocab"], rules["model"]["merges"], rules["added_tokens"])
        else:
            index[part] = [index[part][0], index[part][1].removesuffix("Fast") + "Fast"]
            if not copied_sentencepiece(path.parent, source, part):
                incomplete.append(part)
    write_json(index_file, index, indent=2)
    return incomplete


def write_byte_pairs(
    folder: Path, vocab: Mapping[str, int], pairs: Sequence[str | list[str]], tokens: Sequence[Mapping[str, object]]
) -> None:
    """Write vocab.json and merges.txt, and added_tokens.json where a token is in neither."""
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    added = {token["content"]: token["id"] for token in tokens if token["content"] not in vocab}
    if added:
        write_json(folder / "added_tokens.json", added, indent=2)


def keep_special_tokens_readable(config_file: Path) -> None:
    """Rename a list of special tokens as both versions read it. transformers 4 takes the new name for a dict."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
        write_json(config_file, config, indent=2)


def copied_sentencepiece(folder: Path, source: ModelSource | None, part: str) -> bool:
    """Copy a T5 tokenizer's original file; return False without one. It cannot be made again."""
    if source is None:
        return False
    file = part_files(source, part, has_weights=False).root / part / SENTENCEPIECE
    if not file.is_file():
        return False
    shutil.copyfile(file, folder / SENTENCEPIECE)
    return True


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    """Write a JSON file as transformers and diffusers do."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
