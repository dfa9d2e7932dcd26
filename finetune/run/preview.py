"""Images from fixed prompts and seeds, beside the base model's. The family's diffusers pipeline draws them."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont

from finetune.batches.encoder import on_device
from finetune.batches.preview_prompts import DrawingPrompts, drawing_arguments
from finetune.config.drawing.options import read_notation
from finetune.config.outputs import PreviewConfig
from finetune.files import write_atomically, writing
from finetune.models.family import Components, ModelFamily
from finetune.models.parts import for_drawing
from finetune.models.samplers import with_sampler
from finetune.models.vae_upcast import without_fp16_overflow
from finetune.out_of_memory import explaining_out_of_memory
from finetune.processes.ranks import ranks
from finetune.report.rows import read_json
from finetune.session import Session
from finetune.tracking.backend import PreviewRow
from finetune.tracking.tracker import Tracker

BASE_STEP = 0
LABEL_HEIGHT = 22


def planned_previews(folder: Path, config: PreviewConfig, step: int) -> list[PreviewRow]:
    """List the previews of a step by prompt, then seed."""
    planned = []
    for (number, line), count in itertools.product(enumerate(config.prompts), range(config.num_seeds)):
        seed = (read_notation(line)[0].seed or 0) + count
        name = f"prompt{number:02d}_seed{seed}.png"
        base = folder / f"step_{BASE_STEP:06d}_{name}"
        has_base = step != BASE_STEP and base.exists()
        planned.append(PreviewRow(line, seed, folder / f"step_{step:06d}_{name}", base if has_base else None))
    return planned


def all_previews(folder: Path, config: PreviewConfig) -> list[tuple[int, PreviewRow]]:
    """List the previews that were drawn by prompt, then seed, then step. Each has its step."""
    steps = read_json(folder / "previews.json").get("steps") or []
    found = [(step, row) for step in steps for row in planned_previews(folder, config, step) if row.path.exists()]
    places = {prompt: place for place, prompt in enumerate(config.prompts)}
    return sorted(found, key=lambda entry: (places[entry[1].prompt], entry[1].seed, entry[0]))


def preview(session: Session, step: int) -> bool:
    """Draw the previews of a step, a part on every process. Returns False where it was stopped before the last."""
    run, config = session.run, session.run.config.preview
    folder, network = run.folder / "previews", session.tuned.network
    folder.mkdir(exist_ok=True)
    planned = planned_previews(folder, config, step)
    mine = ranks().share(planned)
    is_complete = True
    if mine:
        network.eval()
        with session.averaged_weights(), writing(folder), session.model.parts.lent("vae"):
            is_complete = make_previews(
                run.family,
                session.components,
                mine,
                session.data.prompts,
                config,
                run.accelerator,
                size=config.size or run.config.data.resolution,
                stop=session.stop.requested,
            )
        network.train()
    is_complete = not ranks().any(not is_complete)
    if session.records.tracker and is_complete:
        log_previews(session, planned, step, session.records.tracker)
    ranks().exchange()  # one made the grid
    return is_complete


def log_previews(session: Session, planned: Sequence[PreviewRow], step: int, tracker: Tracker) -> None:
    """Write the grid of a step, and log its images."""
    folder = session.run.folder / "previews"
    with writing(folder):
        grid = save_grid(folder, planned, session.run.config.preview, step)
    session.run.say(f"Previews of step {step}: {grid}")
    tracker.log_previews(planned, step)


@torch.no_grad()
def make_previews(
    family: ModelFamily,
    components: Components,
    previews: Sequence[PreviewRow],
    prompts: DrawingPrompts,
    config: PreviewConfig,
    accelerator: Accelerator,
    *,
    size: int,
    stop: Callable[[], bool],
) -> bool:
    """Write the images of this process. They have `size` pixels a side where their prompts do not say. Returns False
    where `stop` was true before the last of them. The denoiser in `components` is the one being trained, and text
    encoders that do not train have no weights."""
    components = for_drawing(components, accelerator.device)
    read = dict(zip(config.prompts, replace(config, size=None).read_prompts(size), strict=True))
    explained = explaining_out_of_memory(
        f"while a preview of {size}x{size} was drawn", f"Lower preview.size (now {size}), or remove preview.prompts."
    )
    on_its_device = on_device([components.vae], accelerator.device)
    with explained, on_its_device, accelerator.autocast(), without_fp16_overflow(components.vae):
        for line, of_prompt in itertools.groupby(previews, lambda preview: preview.prompt):
            options = read[line]
            scheduler = with_sampler(family, components.scheduler, options.sampler)
            pipeline = family.pipeline(replace(components, scheduler=scheduler))
            arguments = drawing_arguments(family, components, prompts[line], accelerator.device)
            for preview in of_prompt:
                if ranks().ends_early(stop()):
                    return False
                image = pipeline(
                    **arguments,
                    width=options.width,
                    height=options.height,
                    num_inference_steps=options.num_inference_steps,
                    guidance_scale=family.guidance_scale if options.guidance_scale is None else options.guidance_scale,
                    generator=torch.Generator().manual_seed(preview.seed),
                ).images[0]
                if not ranks().keeps_result:
                    continue
                temporary = preview.path.with_name(f".tmp-{preview.path.name}")
                image.save(temporary, format="PNG")
                temporary.replace(preview.path)
    return True


def save_grid(folder: Path, previews: Sequence[PreviewRow], config: PreviewConfig, step: int) -> Path:
    """Write `step_NNNNNN_grid.png`, and add the step to previews.json. A row is the base model's image and this
    step's."""
    bases = [preview.path if step == BASE_STEP else preview.base_path for preview in previews]
    images = [(base and Image.open(base), Image.open(p.path)) for base, p in zip(bases, previews, strict=True)]
    width, height = (max(image.size[axis] for _, image in images) for axis in (0, 1))
    cell = max(width, 160), height + LABEL_HEIGHT
    grid = Image.new("RGB", (2 * cell[0], LABEL_HEIGHT + len(images) * cell[1]), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(13)
    draw.text((4, 3), "base model", "black", font)
    draw.text((cell[0] + 4, 3), f"step {step}", "black", font)
    for row, (preview, pair) in enumerate(zip(previews, images, strict=True)):
        top = LABEL_HEIGHT + row * cell[1]
        for column, image in enumerate(pair):
            if image is not None:
                grid.paste(image, (column * cell[0] + (cell[0] - image.width) // 2, top + height - image.height))
        draw.text((4, top + height + 2), f"{preview.prompt}  (seed {preview.seed})", "black", font)
    path = folder / f"step_{step:06d}_grid.png"
    grid.save(path)
    index_file = folder / "previews.json"
    known = json.loads(index_file.read_text())["steps"] if index_file.exists() else []
    index = {
        "prompts": list(config.prompts),
        "seeds": list(range(config.num_seeds)),
        "steps": sorted({*known, BASE_STEP, step}),
    }
    write_atomically(index_file, json.dumps(index, indent=1))
    return path
