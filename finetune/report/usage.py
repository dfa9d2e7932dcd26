"""How to use the exported files of a run in other programs."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
LEARNED = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")


@dataclass(frozen=True)
class Exported:
    """The files in OUT/export."""

    folder: Path
    is_pipeline: bool
    has_diffusers_file: bool
    single_files: list[Path]
    """Adapters for ComfyUI, A1111, Forge and sd-scripts."""
    peft: Path | None
    tokens: list[Path]
    """Files of new tokens for A1111 and ComfyUI."""
    learned: list[Path]
    """Files of new tokens for diffusers."""


@dataclass(frozen=True)
class Usage:
    """One program, what to do in words, and the code."""

    program: str
    steps: list[str]
    code: str = ""


def find_exported(folder: Path) -> Exported | None:
    """Find the exported files of a run folder. It is None without any."""
    export = folder / "export"
    files = [path for path in sorted(export.glob("*.safetensors")) if not path.name.startswith(".")]
    embeddings = export / "embeddings"
    exported = Exported(
        folder=export,
        is_pipeline=(export / "model_index.json").is_file(),
        has_diffusers_file=any(path.name == DIFFUSERS_FILE for path in files),
        single_files=[path for path in files if path.name != DIFFUSERS_FILE],
        peft=export / "peft" if (export / "peft").is_dir() else None,
        tokens=[path for path in sorted(embeddings.glob("*.safetensors")) if not path.name.startswith(".")],
        learned=[path for name in LEARNED for path in sorted(embeddings.glob(f"*/{name}"))],
    )
    has_any = exported.is_pipeline or files or exported.peft or exported.tokens
    return exported if has_any else None


def metadata(exported: Exported | None) -> dict[str, str]:
    """Read the metadata of the first exported file that has some."""
    for path in (*exported.single_files, *exported.tokens) if exported else ():
        try:
            with safe_open(path, framework="np") as file:
                if found := file.metadata():
                    return dict(found)
        except (SafetensorError, OSError):
            continue
    return {}


def exported_step(exported: Exported | None) -> int | None:
    """Read the step that was exported."""
    steps = metadata(exported).get("ss_steps", "")
    return int(steps) if steps.isdecimal() else None


def usages(exported: Exported, source: str, strength: float | None, prompts: Sequence[str]) -> list[Usage]:
    """Say how to use the files in each program. The strength is the chosen one."""
    prompt = next(iter(prompts), "your prompt")
    at = 1.0 if strength is None else strength
    found = [generate_usage(exported, source, at, prompt), diffusers_usage(exported, source, at, prompt)]
    if exported.is_pipeline:
        loads = f"Copy the folder {exported.folder} to models/diffusers, and load it with the node DiffusersLoader."
        refuses = "It reads no folders of pipelines. Convert the folder to a single file first."
        return [*found, Usage("ComfyUI", [loads]), Usage("A1111, Forge", [refuses])]
    comfy, webui = [], []
    for path in exported.single_files:
        comfy.append(
            f"Copy {path} to models/loras, and load it with the node Load LoRA: strength_model {at:g}, strength_clip "
            f"{at:g}."
        )
        webui.append(f"Copy {path} to models/Lora, and write <lora:{path.stem}:{at:g}> in the prompt.")
    for path in exported.tokens:
        comfy.append(f"Copy {path} to models/embeddings, and write embedding:{path.stem} in the prompt.")
        webui.append(f"Copy {path} to embeddings, and write {path.stem} in the prompt.")
    return found + [Usage(name, steps) for name, steps in (("ComfyUI", comfy), ("A1111, Forge", webui)) if steps]


def generate_usage(exported: Exported, source: str, strength: float, prompt: str) -> Usage:
    """Draw with this project."""
    words = ["finetune", "generate", "--model.source", str(exported.folder) if exported.is_pipeline else source]
    adapter = next(iter(exported.single_files), exported.peft)
    if not exported.is_pipeline:
        if adapter is not None:
            words += ["--lora", f"{adapter}:{strength:g}"]
        if exported.tokens:
            words += ["--embedding", *map(str, exported.tokens)]
    return Usage("finetune generate", [], shlex.join([*words, "--prompts", prompt, "--output", "drawn"]))


def diffusers_usage(exported: Exported, source: str, strength: float, prompt: str) -> Usage:
    """Draw in Python."""
    lines, steps = ["from diffusers import DiffusionPipeline", ""], []
    base = str(exported.folder) if exported.is_pipeline else source
    if base.endswith((".safetensors", ".ckpt")):
        steps.append("A single file needs the class of its family, with from_single_file instead of from_pretrained.")
    lines.append(f"pipeline = DiffusionPipeline.from_pretrained({quoted(base)})")
    if exported.has_diffusers_file and not exported.is_pipeline:
        lines.append(f'pipeline.load_lora_weights({quoted(str(exported.folder))}, adapter_name="tuned")')
        lines.append(f'pipeline.set_adapters("tuned", {strength:g})')
    elif exported.peft and not exported.is_pipeline:
        steps.append("diffusers does not load adapters of this kind itself; peft does.")
        lines.insert(1, "from peft import PeftModel")
        for part in sorted(path for path in exported.peft.glob("*/") if path.is_dir()):
            lines.append(
                f"pipeline.{part.name} = PeftModel.from_pretrained(pipeline.{part.name}, {quoted(str(part))})"
                if part.name.isidentifier()
                else f"# {part.name}"
            )
    for path in exported.learned if not exported.is_pipeline else ():
        end = path.stem.removeprefix("learned_embeds")
        more = "" if not end else f", text_encoder=pipeline.text_encoder{end}, tokenizer=pipeline.tokenizer{end}"
        lines.append(f"pipeline.load_textual_inversion({quoted(str(path))}{more})")
    lines += [f"image = pipeline({quoted(prompt)}).images[0]", 'image.save("image.png")']
    return Usage("diffusers", steps, "\n".join(lines))


def quoted(text: str) -> str:
    """Write a text as a literal of Python."""
    return json.dumps(text, ensure_ascii=False)
