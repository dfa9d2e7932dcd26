"""Train the base model that ships with the project, from icons alone.

    python -m tools.base_model --icons ICONS --work WORK [--device gpu] [--steps 10000]

The same command continues an interrupted run. WORK receives the two sets of tools/icons.py, then a run folder for each
stage of `recipes.pretrain`: tokenizer, autoencoder, denoiser, and a short one in which the rate falls to nothing.
WORK/pieces has the result in files of at most 15 MB, for places that take no larger ones: `cat FILE.part* > FILE`. Card
and attribution are beside it; `benchmarks/base_quality.py` prints the figures that the card wants.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.demo.run import PACKAGES, start
from finetune.files import new_folder
from tools.command import run_tool
from tools.icons import IconsConfig, write

PRESET = PACKAGES / "recipes" / "configs" / "pretrain_icons.yaml"
PIECE_BYTES = 15 * 2**20
CARD, ATTRIBUTION = (Path(__file__).with_name(f"icons_{name}.md") for name in ("card", "attribution"))
"""What goes with the weights. The card has a name between two @ where a figure is missing."""


@dataclass(frozen=True)
class BaseModelConfig:
    """Train the base model of icons."""

    icons: Path
    """Folder of Parquet files with the columns image, concept, style and set."""
    work: Path
    """Folder for the sets, the runs and the result."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Two processes on the CPU, or one on a GPU."""
    steps: int = 10_000
    """Of the denoiser at a constant rate; images a step are those of the preset."""
    last_steps: int = 2_000
    """Of the denoiser while the rate falls."""
    autoencoder_steps: int = 12_000
    """Of the autoencoder."""
    batch_size: int = 128
    """Images of a step of the denoiser, over all processes."""

    def __post_init__(self) -> None:
        for name in ("steps", "last_steps", "autoencoder_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more.")
        if self.batch_size % 2:
            raise ValueError(f"batch_size: got {self.batch_size}, expected an even number, for two processes.")


def train(config: BaseModelConfig) -> Path:
    """Train what is missing and write the pieces.

    Raises CalledProcessError where a stage fails, which has said why.
    """
    icons, work = config.icons.absolute(), config.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    for name, for_vae in (("pairs", False), ("looks", True)):
        if not (work / name).exists():
            print(f"{work / name}: {write(IconsConfig(icons, work / name, for_vae=for_vae)):,} images.", flush=True)
    of_process = config.batch_size // (2 if config.device == "cpu" else 1)
    pairs, runs = ["--data.folder", work / "pairs"], [work / name for name in ("tokenizer", "autoencoder", "denoiser")]
    last = work / "last"
    run_stage("tokenizer", runs[0], None, "cpu", [*pairs])
    run_stage(
        "autoencoder", runs[1], runs[0], config.device,
        ["--data.folder", work / "looks", "--data.captions", "none", "--autoencoder.steps", config.autoencoder_steps,
         "--autoencoder.batch_size", 8 if config.device == "cpu" else 16, *rising(config.autoencoder_steps)],
    )  # fmt: skip
    denoiser = [*pairs, "--train.batch_size", of_process, "--train.steps"]
    run_stage("denoiser", runs[2], runs[1], config.device, [*denoiser, config.steps, *rising(config.steps)])
    falling = ["--optim.schedule", "linear", "--optim.warmup_steps", 0]
    run_stage("denoiser", last, runs[2], config.device, [*denoiser, config.last_steps, *falling])
    return split(last / "export", work / "pieces")


def rising(steps: int) -> list[object]:
    """Warm up over 200 steps, or half of a shorter stage."""
    return ["--optim.warmup_steps", min(200, steps // 2)]


def run_stage(stage: str, run: Path, before: Path | None, device: str, options: list[object]) -> None:
    """Run one stage of `recipes.pretrain` as a user would, or continue it."""
    source = [] if before is None else ["--model.source", before / "export"]
    options = ["--config", PRESET, "--stage", stage, *source, *options, "--output.folder", run]
    configs, launch = PACKAGES / "accelerate_configs", "accelerate.commands.launch"
    if stage == "tokenizer":
        start("recipes.pretrain", *options)
    elif device == "cpu":
        launcher = ["--config_file", configs / "cpu.yaml", "--mixed_precision", "bf16", "--multi_gpu"]
        launcher += ["--num_processes", 2, "--num_cpu_threads_per_process", 1, "-m", "recipes.pretrain"]
        start(launch, *launcher, *options, ACCELERATE_USE_CPU="true")
    else:
        start(launch, "--config_file", configs / "single_gpu.yaml", "-m", "recipes.pretrain", *options)


def split(model: Path, pieces: Path) -> Path:
    """Copy a model's files, those over the limit in numbered parts."""
    if pieces.exists():
        return pieces
    with new_folder(pieces) as unfinished:
        shutil.copy(CARD, unfinished / "README.md")
        shutil.copy(ATTRIBUTION, unfinished / "ATTRIBUTION.md")
        for file in sorted(path for path in model.rglob("*") if path.is_file()):
            data, target = file.read_bytes(), unfinished / file.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            if len(data) <= PIECE_BYTES:
                target.write_bytes(data)
                continue
            for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
                target.with_name(f"{target.name}.part{number:02d}").write_bytes(data[start : start + PIECE_BYTES])
    return pieces


def run(config: BaseModelConfig) -> str:
    """Train, and name the result. Exit with a failed stage's code, which has said why."""
    try:
        return f"The model is in {train(config)}, in pieces."
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None


if __name__ == "__main__":
    run_tool(BaseModelConfig, run, "python -m tools.base_model")
