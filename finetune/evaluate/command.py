"""`finetune evaluate`: draw a grid, score it, and choose. The same command again resumes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.evaluate import EMBEDDED, EvaluateConfig
from finetune.config.parse.command_line import flat_types, parse, read_flags, read_yaml
from finetune.data.manifest import Manifest
from finetune.evaluate.choice import best_content, choose
from finetune.evaluate.grid import KINDS, Grid, make_grid
from finetune.evaluate.references import held_out_of, read_references, read_scored_manifest
from finetune.evaluate.rows import read_rows, write_rows
from finetune.evaluate.table import choice_lines, score_table
from finetune.evaluate.target import Target, base_target, find_targets
from finetune.files import lock_folder, write_atomically

if TYPE_CHECKING:
    from finetune.evaluate.measure import FeatureSet, Yardstick
    from finetune.models.family import ModelFamily, ModelSource

PROGRAM = "finetune evaluate"
VERSION = 3
"""Of the scores; rows of another version are computed again."""
OF_RUN = {
    "model.source": "model.source",
    "model.family": "model.family",
    "model.revision": "model.revision",
    "model.variant": "model.variant",
    "model.config": "model.config",
    "model.vae": "model.vae",
    "data.folder": "data.folder",
    "data.folders": "data.folders",
    "data.trigger": "data.trigger",
    "data.expand_syntax": "data.expand_syntax",
    "data.image_column": "data.image_column",
    "data.caption_column": "data.caption_column",
    "data.captions": "data.captions",
    "data.caption_lines": "data.caption_lines",
    "data.keep_rating": "data.keep_rating",
    "data.folder_repeats": "data.folder_repeats",
    "data.follow_links": "data.follow_links",
    "data.template": "data.template",
    "data.validation_fraction": "validation.fraction",
    "grid.prompts": "preview.prompts",
    "draw.size": "data.resolution",
    "draw.num_inference_steps": "preview.num_inference_steps",
    "draw.guidance_scale": "preview.guidance_scale",
    "draw.negative_prompt": "preview.negative_prompt",
}
"""Options that a run's config.yaml gives where the command does not, and their names there."""


def parse_evaluation(arguments: Sequence[str]) -> EvaluateConfig:
    """Read the options; what is scored comes before them. A run folder gives those that it was trained with."""
    arguments = list(arguments)
    num = next((place for place, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    targets, flags = arguments[:num], arguments[num:]
    given, _ = read_flags(flags, flat_types(EvaluateConfig))
    if "config" not in given:
        flags += options_of_run(targets, set(given))
    return parse(EvaluateConfig, flags + (["--targets", *targets] if targets else []), program=PROGRAM)


def options_of_run(targets: Sequence[str], given: set[str]) -> list[str]:
    """Read options of the first run folder, as flags. Those that the command gives are omitted."""
    saved = next((Path(each) / "config.yaml" for each in targets if (Path(each) / "config.yaml").is_file()), None)
    if saved is None:
        return []
    found, flags = read_yaml(saved)[0], []
    for key, theirs in OF_RUN.items():
        texts = found.get(theirs, [])
        is_other = key in ("data.folder", "data.folders") and given & {"data.folder", "data.folders"}
        if key not in given and not is_other and texts and texts != ["None"]:
            flags += [f"--{key}", *texts]
    return flags


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> Path:
    """Score all targets into OUTPUT/scores.jsonl and choose; return that file."""
    targets, base = find_targets(config.targets), base_target(config.model.source, config.model.revision)
    manifest = read_scored_manifest(config.data)
    held_out = held_out_of(manifest, config.data)
    grid = make_grid(manifest.records, held_out, config.grid, config.data.template)
    for line in grid_notes(grid):
        say(line)
    config.output.mkdir(parents=True, exist_ok=True)
    with lock_folder(config.output):
        evaluation = Evaluation(config, manifest, held_out, grid, base, say)
        places = {"base_images": evaluation.folder(base).relative_to(config.output).as_posix()}
        content = json.dumps(asdict(grid) | places, indent=1, ensure_ascii=False)
        write_atomically(config.output / "grid.json", content)
        rows = evaluation.rows(targets)
        write_choice(config, rows, say)
    return config.output / "scores.jsonl"


def grid_notes(grid: Grid) -> list[str]:
    """Say what the grid is, and what it lacks."""
    kinds = {kind: len(grid.of_kinds(kind)) for kind in KINDS}
    found = [
        f"Grid: {len(grid.prompts)} prompts ("
        + ", ".join(f"{num} {kind.replace('_', ' ')}" for kind, num in kinds.items())
        + f") x {len(grid.seeds)} seeds"
    ]
    if not kinds["held_out"]:
        found.append("note: no image was held out, so no prompt is a caption that the training never saw.")
    if not grid.has_trigger:
        found.append("note: data.template adds nothing to captions, so the style applies to neutral prompts too.")
    return found


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One command: its dataset, grid and base model."""

    config: EvaluateConfig
    manifest: Manifest
    held_out: set[int]
    grid: Grid
    base: Target
    say: Callable[[str], None]

    def rows(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """Score what is not scored yet. Returns the rows of all targets."""
        path = self.config.output / "scores.jsonl"
        known = {row["id"]: row for row in read_rows(path)}
        identities = feature_identities(self.config)
        wanted = {self.identity(target, identities): target for target in targets}
        missing = {key: target for key, target in wanted.items() if key not in known}
        if missing:
            family, source = family_of(self.config)
            for target in (self.base, *missing.values()):
                self.draw(family, source, target)
            features, yardstick = self.measured(family, source)
            for key, target in missing.items():
                self.say(f"Scoring {target.name}")
                known[key] = self.row(key, target, features, yardstick)
                write_rows(path, known.values())
        found = [known[key] for key in wanted]
        self.say(score_table(found))
        return found

    def identity(self, target: Target, features: dict[str, str]) -> str:
        """Hash everything that a row depends on."""
        config = self.config
        parts = [VERSION, target.digest, self.base.digest, self.grid.fingerprint, self.manifest.fingerprint]
        parts += [asdict(config.draw) | {"device": None}, features, config.data.max_images]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def folder(self, target: Target) -> Path:
        """Name the folder of a target's images. Other grids and ways of drawing have others."""
        drawn = [self.base.digest, self.grid.fingerprint, asdict(self.config.draw) | {"device": None}]
        key = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:8]
        return self.config.output / "images" / f"{target.label}-{key}"

    def draw(self, family: "ModelFamily", source: "ModelSource", target: Target) -> None:
        """Draw the images of a target that are missing."""
        from finetune.evaluate.drawing import draw_grid, missing_prompts

        folder = self.folder(target)
        if missing := missing_prompts(folder, self.grid):
            self.say(f"Drawing {len(missing) * len(self.grid.seeds)} images with {target.name}: {folder}")
            draw_grid(family, source, target, self.grid, self.config.draw, folder)

    def measured(self, family: "ModelFamily", source: "ModelSource") -> "tuple[FeatureSet, Yardstick]":
        """Measure the training images and the base model's."""
        from finetune.evaluate.drawing import device_named, read_images
        from finetune.evaluate.features.model import FrozenModel
        from finetune.evaluate.measure import FeatureSet, Yardstick

        config = self.config
        self.say("Measuring the training images and the base model's")
        base = read_images(self.folder(self.base), self.grid)
        references = read_references(self.manifest, self.held_out, config.data.max_images, base.pixels.shape[2])
        model = FrozenModel(family, family.load(source), device_named(config.draw.device))
        features = FeatureSet.from_config(config.features, model)
        described = features.describe_all(self.grid, base)
        return features, Yardstick.measured(self.grid, features, model, references, described)

    def row(self, key: str, target: Target, features: "FeatureSet", yardstick: "Yardstick") -> dict[str, Any]:
        """Score a target's images."""
        from finetune.evaluate.drawing import read_images

        folder = self.folder(target)
        images = read_images(folder, self.grid)
        place = folder.relative_to(self.config.output).as_posix()
        facts = {"step": target.step, "target": target.name, "id": key, "weights": target.digest, "images": place}
        return yardstick.row(facts, images, features.describe_all(self.grid, images))


def feature_identities(config: EvaluateConfig) -> dict[str, str]:
    """Name the features' models, with their hashes or commits."""
    from finetune.evaluate.features.pretrained import model_files

    given = {f"features.{name}": model for name, model in asdict(config.features).items()}
    return {key: model if model == EMBEDDED else model_files(key, model).name for key, model in given.items()}


def family_of(config: EvaluateConfig) -> "tuple[ModelFamily, ModelSource]":
    """Find the base model's family."""
    from finetune.models import family_named
    from finetune.models.family import ModelSource
    from finetune.models.loading.components import find_family

    source = ModelSource.from_config(config.model)
    return family_named(find_family(source, config.model.family)), source


def write_choice(config: EvaluateConfig, rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Write best.json, and say what it says."""
    choice = choose(rows, config.goal, config.limits)
    if choice is not None:
        content = best_content(choice, config.goal, config.limits)
        write_atomically(config.output / "best.json", json.dumps(content, indent=1, ensure_ascii=False))
    for line in choice_lines(choice):
        say(line)
