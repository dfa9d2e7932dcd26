"""The identity of a model's parts, compared on resuming."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import cast

from torch import Tensor

from finetune.batches.fill_caches import described_settings
from finetune.batches.store import tensor_digest
from finetune.config.facts import Mark, marked
from finetune.config.parse.dump import as_flat
from finetune.config.train import TrainConfig
from finetune.lora_files.layers import weights_sha256
from finetune.models.family import Components
from finetune.models.interfaces import Settings, Tokenizer
from finetune.objectives.diffusion import Objective
from finetune.run.weight_hashes import Hashes
from finetune.run_folder.checkpoints import Identity, PartIdentity

PROBE = "A Café, it's 12:30! (red:1.2) [x] <b> #9 日本"
"""Text whose tokens show most of what a tokenizer does before it looks anything up."""
OBJECTIVE = "objective"


def model_identity(components: Components, hashes: Hashes, objective: Objective) -> Identity:
    """Describe the model as read, before anything is attached."""
    found: Identity = {
        "denoiser": described(components.denoiser.config, hashes["denoiser"][0]),
        "VAE": described(components.vae.config, hashes["vae"][0]),
    }
    for number, (encoder, sha256) in enumerate(zip(components.text_encoders, hashes["text_encoders"], strict=True), 1):
        settings = described_settings(encoder.config.to_dict())
        found[f"text encoder {number}"] = {"hash": sha256, "settings": settings, "assumed": list(settings)}
    for number, tokenizer in enumerate(components.tokenizers, 1):
        found[f"tokenizer {number}"] = {"hash": tokenizer_hash(tokenizer), "settings": {}, "assumed": []}
    found["scheduler"] = described(components.scheduler.config, "")
    found["scheduler"]["settings"]["class"] = type(components.scheduler).__name__
    found[OBJECTIVE] = {"hash": "", "settings": objective_settings(objective), "assumed": []}
    return json.loads(json.dumps(found, default=str))


def start_identity(config: TrainConfig) -> Identity:
    """Hash the files that the trained weights start from."""
    given = as_flat(config)
    found: Identity = {}
    for key in marked(type(config), Mark.START):
        if given[key] is not None:
            found[key] = {"hash": weights_sha256(Path(given[key])), "settings": {}, "assumed": []}
    return found


def described(config: Settings, sha256: str) -> PartIdentity:
    """Describe a part by its config from diffusers, with the assumed settings."""
    settings = described_settings(dict(config))
    defaults = cast("list[str]", config.get("_use_default_values", []))
    assumed = [name for name in defaults if name in settings]
    return {"hash": sha256, "settings": settings, "assumed": sorted(assumed)}


def objective_settings(objective: Objective) -> dict[str, object]:
    """Return the checkpoint's objective, without the user's options."""
    if not dataclasses.is_dataclass(objective):
        return {"class": type(objective).__name__}
    values = {item.name: getattr(objective, item.name) for item in dataclasses.fields(objective)}
    return {
        name: tensor_digest(value) if isinstance(value, Tensor) else value
        for name, value in values.items()
        if name != "options"
    }


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Hash vocabulary, merges, special tokens, longest prompt and probing tokens. The files are not hashed: libraries
    write the same tokenizer in several ways."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges", [])]
    vocabulary = sorted(model["vocab"].items()) if isinstance(model["vocab"], dict) else model["vocab"]
    special = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length
    text = json.dumps([vocabulary, merges, special, tokenizer(PROBE).input_ids])
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Identity, now: Identity) -> dict[str, list[str]]:
    """Return the changes of each part, as in "scaling_factor 0.18215 -> 0.13025". Equal parts are absent. A setting
    that one of the two does not have counts unless it was assumed: another version of a library may have more
    settings."""
    found: dict[str, list[str]] = {}
    for part in {**before, **now}:
        if part not in now or part not in before:
            found[part] = ["absent now" if part in before else "absent before"]
            continue
        texts = ["other content"] if before[part]["hash"] != now[part]["hash"] else []
        old, new = before[part]["settings"], now[part]["settings"]
        for name in {**old, **new}:
            if name in old and name in new:
                is_changed = old[name] != new[name]
            else:
                is_changed = name not in (before if name in old else now)[part]["assumed"]
            if is_changed:
                texts.append(f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}")
        if texts:
            found[part] = texts
    return found
