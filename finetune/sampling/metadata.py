"""Text in PNG files: A1111's parameters, and all settings as JSON."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open

from finetune import __version__
from finetune.files import aside, put_in_place, sync, writing
from finetune.json_text import parse_json

A1111_CHUNK, OWN_CHUNK = "parameters", "sd-finetune"


@dataclass(frozen=True)
class Drawn:
    """The settings that an image was drawn with; none is left open."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    """A1111's name where it has one."""
    scheduler: str
    """Class of diffusers."""
    model: str
    adapters: Sequence[Mapping[str, object]]
    """Name, strength and hash of each."""
    embeddings: Sequence[Mapping[str, object]]
    """Name, word and hash of each."""
    key: str
    image: str | None = None
    mask_image: str | None = None
    image_strength: float | None = None
    device: str = "cpu"
    dtype: str = "fp32"

    def as_json(self) -> dict[str, Any]:
        """Return all settings in JSON's own types."""
        return {
            **vars(self),
            "adapters": list(self.adapters),
            "embeddings": list(self.embeddings),
            "version": __version__,
        }


def parameters_text(drawn: Drawn) -> str:
    """Write the settings as A1111 does, whose reader takes them back. Adapters are in the prompt, as it wants them."""
    tags = [f"<lora:{Path(str(each['name'])).stem}:{each['strength']:g}>" for each in drawn.adapters]
    lines = [" ".join([drawn.prompt, *tags])]
    if drawn.negative_prompt:
        lines.append(f"Negative prompt: {drawn.negative_prompt}")
    found: dict[str, object] = {
        "Steps": drawn.num_inference_steps,
        "Sampler": drawn.sampler,
        "CFG scale": f"{drawn.guidance_scale:g}",
        "Seed": drawn.seed,
        "Size": f"{drawn.width}x{drawn.height}",
        "Model": Path(drawn.model).stem if drawn.model.endswith(".safetensors") else Path(drawn.model).name,
    }
    if drawn.image_strength is not None:
        found["Denoising strength"] = f"{drawn.image_strength:g}"
    for title, listed in (("Lora hashes", drawn.adapters), ("TI hashes", drawn.embeddings)):
        if listed:
            found[title] = ", ".join(f"{Path(str(each['name'])).stem}: {str(each['hash'])[:12]}" for each in listed)
    found["Version"] = f"sd-finetune {__version__}"
    lines.append(", ".join(f"{name}: {quoted(str(value))}" for name, value in found.items()))
    return "\n".join(lines)


def quoted(text: str) -> str:
    """Quote a value that has A1111's separators."""
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


def a1111_hash(path: Path) -> str:
    """Return the hash by which A1111 finds an adapter. It is in the metadata, or that of the tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return ""
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get("sshs_model_hash")
    if said:
        return said
    total = hashlib.sha256()
    with path.open("rb") as opened:
        opened.seek(8 + int.from_bytes(opened.read(8), "little"))
        while block := opened.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def png_texts(drawn: Drawn) -> PngInfo:
    """Make the text chunks of an image."""
    texts = PngInfo()
    texts.add_text(A1111_CHUNK, parameters_text(drawn))
    texts.add_text(OWN_CHUNK, json.dumps(drawn.as_json(), ensure_ascii=True))
    return texts


def save_png(pixels: Image.Image, path: Path, texts: PngInfo) -> None:
    """Write an image with its texts. It is complete or absent."""
    temporary = aside(path)
    with writing(path):
        try:
            pixels.save(temporary, format="PNG", pnginfo=texts)
            sync(temporary)
            put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def read_own(path: Path) -> dict[str, Any] | None:
    """Read the settings of an image that this program drew. None for any other file."""
    try:
        with Image.open(path) as image:
            image.load()
            value = parse_json(str(image.info[OWN_CHUNK]))
    except (OSError, ValueError, KeyError, SyntaxError):
        return None
    return value if isinstance(value, dict) else None
