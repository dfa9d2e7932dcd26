"""The commands of README and of the docstrings of the recipes, run with a small model and small pictures."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import flat_types, parse, read_flags
from finetune.config.parse.presets import find_preset
from finetune.config.pretrain import PretrainConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig, TextualInversionTrainConfig
from finetune.models.loading.single_file import published_folder
from tests.support.runs import metrics
from tests.tiny.sd import save_pictures, save_pipeline

ROOT = Path(__file__).parents[2]
FAST = (
    "--data.resolution 64 --data.bucket_step 16 --train.steps 4 --train.log_every 2 --optim.warmup_steps 1 "
    "--train.batch_size 2 --preview.num_inference_steps 1 --tracking.names"
)


def commands(text: str) -> list[list[str]]:
    """Returns the shell commands of a text's code blocks, split into words."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def command_with(word: str) -> list[str]:
    """Returns README's command that contains the word."""
    return next(command for command in commands((ROOT / "README.md").read_text()) if word in command)


def test_readme_promises_the_two_make_targets() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert ["make", "demo"] in commands((ROOT / "README.md").read_text()) and "demo" in targets
    assert ["make", "test"] in commands((ROOT / "README.md").read_text()) and "test" in targets


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\b(?:docs|recipes|accelerate_configs|benchmarks|tests)/[\w./-]+\.(?:yaml|py|png|md)", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_preparing_and_training_as_readme_says(tmp_path: Path) -> None:
    pictures = tmp_path / "my_images"
    save_pictures(pictures, count=8, size=64)
    stand_ins = {
        "my_images": str(pictures),
        "prepared/ink": str(tmp_path / "prepared" / "ink"),
        "runs/ink-small": str(tmp_path / "runs" / "ink-small"),
        "runs/ink": str(tmp_path / "runs" / "ink"),
        "runs/ink-word": str(tmp_path / "runs" / "ink-word"),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(save_pipeline(tmp_path / "model", size="micro")),
        "accelerate_configs/single_gpu.yaml": "accelerate_configs/cpu.yaml",
    }
    cached = ["--cache.folder", str(tmp_path / "cache")]
    programs = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    for command, extra in (
        (command_with("datasets_prep"), []),
        (command_with("finetune/assets/pictograms"), [*FAST.split(), *cached]),
        (command_with("recipes/configs/sd15_lora_style.yaml"), [*FAST.split(), *cached]),
        (command_with("recipes.textual_inversion"), [*FAST.split(), *cached, "--tokens.init", "red"]),
    ):
        words = programs[command[0]] + [stand_ins.get(word, word) for word in command[1:]] + extra
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
    assert [row["step"] for row in metrics(tmp_path / "runs" / "ink")] == [2, 4]
    assert (tmp_path / "runs" / "ink" / "export" / "ink.safetensors").exists()
    embeddings = tmp_path / "runs" / "ink-word" / "export" / "embeddings"
    assert (embeddings / "ink-style.safetensors").exists()
    assert (embeddings / "ink-style" / "learned_embeds.safetensors").exists()


def test_the_base_models_of_readme_are_known_by_id_preset_and_family() -> None:
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Base models") : text.index("## Memory")]
    rows = [line for line in section.splitlines() if line.startswith("|") and "--model.source" in line]
    typed = [shlex.split(row.split("`")[1]) for row in rows]
    typed += [command for command in commands(section) if command[0] == "python"]
    assert len(rows) >= 7 and all(re.search(r"about \d+(\.\d)? GB", row) for row in rows)
    for words in typed:
        given, found = read_flags(words[words.index("recipes.lora") + 1 :], flat_types(LoRATrainConfig))
        assert found == [], words
        preset = find_preset(given.pop("config")[0])
        options = words[words.index("recipes.lora") + 3 :]
        if "--data.folder" not in options:
            options += ["--data.folder", "prepared/ink", "--output.folder", "runs/ink"]
        config = parse(LoRATrainConfig, ["--config", str(preset), *options], program="t")
        assert config.model.family is not None and (ROOT / "recipes" / "configs").samefile(preset.parent)
        if not config.model.source.endswith(".safetensors"):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", config.model.source)
    fetched = [command[2] for command in commands(section) if command[:2] == ["hf", "download"]]
    assert fetched == [published_folder("xl_base"), published_folder("xl_base", "v_prediction")]


def test_dreambooth_as_readme_says(tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "my_dog", count=3, size=64)
    (pictures / "metadata.jsonl").unlink()
    stand_ins = {
        "my_dog": str(pictures),
        "runs/dog": str(tmp_path / "runs" / "dog"),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(save_pipeline(tmp_path / "model", size="micro")),
        "accelerate_configs/single_gpu.yaml": "accelerate_configs/cpu.yaml",
    }
    programs = {
        "finetune": [sys.executable, "-m", "finetune.cli"],
        "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    }
    small = f"--prior.num_pictures 3 --prior.num_inference_steps 1 --cache.folder {tmp_path / 'cache'} {FAST}".split()
    for command, extra in ((command_with("doctor"), []), (command_with("recipes.dreambooth"), small)):
        words = programs[command[0]] + [stand_ins.get(word, word) for word in command[1:]] + extra
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "cache").glob("class_pictures/*/*.png"))) == 3
    assert (tmp_path / "runs" / "dog" / "export" / "dog.safetensors").exists()


@pytest.mark.parametrize(
    ("recipe", "config"),
    [
        ("dreambooth", DreamBoothTrainConfig),
        ("lora", LoRATrainConfig),
        ("full", FullTrainConfig),
        ("pretrain", PretrainConfig),
        ("textual_inversion", TextualInversionTrainConfig),
    ],
)
def test_the_command_in_a_recipes_docstring_parses(recipe: str, config: type) -> None:
    module = importlib.import_module(f"recipes.{recipe}")
    assert module.__doc__ is not None
    line = next(part for part in module.__doc__.split("\n\n") if "accelerate launch" in part).replace("\\\n", " ")
    words = shlex.split(line)
    assert Path(ROOT / words[words.index("--config_file") + 1]).exists()
    arguments = words[words.index(f"recipes.{recipe}") + 1 :]
    given, found = read_flags(arguments, flat_types(config))
    assert found == []
    assert Path(ROOT / given.pop("config")[0]).exists()
    assert given.keys() <= flat_types(config).keys()
