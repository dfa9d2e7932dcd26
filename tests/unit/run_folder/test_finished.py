from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import dump
from finetune.config.recipes import LoRATrainConfig
from finetune.replaced_folder import replace_folder
from finetune.run_folder.finished import finished_message, write_status
from tests.support.damage import cut, flip_a_bit


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    export = folder / "export"
    for place in (export / "unet", export / "tokenizer", folder / "checkpoints" / "step_000006"):
        place.mkdir(parents=True)
    weights = {"weight": np.arange(64, dtype=np.float32)}
    for name in ("run.safetensors", "unet/diffusion_pytorch_model.safetensors"):
        safetensors.numpy.save_file(weights, export / name)
    (export / "model_index.json").write_text('{"_class_name": "Pipeline", "unet": ["a", "b"], "tokenizer": ["a", "b"]}')
    (export / "unet" / "config.json").write_text("{}")
    (export / "tokenizer" / "merges.txt").write_text("a b")
    (folder / "config.yaml").write_text(dump(config_of(folder)))
    write_status(folder, 6, [export / "run.safetensors", export])
    return folder


def config_of(folder: Path, *options: str) -> LoRATrainConfig:
    given = ["--model.source", "model", "--data.folder", "images", "--output.folder", str(folder), "--train.steps", "6"]
    return parse(LoRATrainConfig, [*given, *options], program="recipes.lora")


OWN = ("run.safetensors", "unet/diffusion_pytorch_model.safetensors", "unet/config.json", "tokenizer/merges.txt")


@pytest.mark.parametrize("damage", [partial(flip_a_bit, place=1.0), cut, Path.unlink])
@pytest.mark.parametrize("name", [*OWN, "model_index.json"])
def test_a_damaged_export_is_named_and_made_again(name: str, damage: Callable[[Path], None], out: Path) -> None:
    said: list[str] = []
    assert "is finished (6 steps)" in (finished_message(config_of(out), said.append) or "")
    assert said == []
    damage(out / "export" / name)
    assert finished_message(config_of(out), said.append) is None
    assert len(said) == 1 and f"export/{name}" in said[0] and "last checkpoint" in said[0]
    (out / "checkpoints" / "step_000006").rmdir()
    with pytest.raises(ValueError, match=f"{name}.*checkpoints are gone"):
        finished_message(config_of(out), said.append)


def test_files_of_others_are_not_looked_at(out: Path) -> None:
    notes = [out / "export" / "notes.txt", out / "export" / "unet" / "notes.txt"]
    for note in notes:
        note.write_text("mine")
    write_status(out, 6, [out / "export" / "run.safetensors", out / "export"])
    for note in notes:
        note.write_text("changed")
    (out / "export" / "other.safetensors").write_bytes(b"not even weights")
    said: list[str] = []
    assert finished_message(config_of(out), said.append) is not None and said == []


def test_a_run_of_version_0_1_is_opened_and_said_to_have_no_checksums(out: Path) -> None:
    (out / "run.json").write_text('{"status": "finished", "steps": 6}')
    said: list[str] = []
    assert finished_message(config_of(out), said.append) is not None
    assert len(said) == 1 and "version 0.1" in said[0]
    cut(out / "export" / "run.safetensors")
    assert finished_message(config_of(out), said.append) is None
    assert "run.safetensors does not open" in said[1]
    (out / "export").rename(out / "moved")
    assert finished_message(config_of(out), said.append) is None
    assert "no weights" in said[2]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"steps": "many"}', '{"steps": 6, "files": {"a": {}}}'])
def test_a_damaged_status_is_no_reason_to_delete_anything(content: str, out: Path) -> None:
    (out / "run.json").write_text(content)
    said: list[str] = []
    assert finished_message(config_of(out), said.append) is None
    assert len(said) == 1 and "run.json is damaged. The run continues from its last checkpoint" in said[0]
    (out / "checkpoints" / "step_000006").rmdir()
    with pytest.raises(ValueError, match=r"run.json is damaged\. The checkpoints are gone too") as raised:
        finished_message(config_of(out), said.append)
    assert "Delete" not in str(raised.value) and len(said) == 1


@pytest.mark.parametrize("options", [("--output.dtype", "fp32"), ("--output.name", "other")])
def test_another_name_or_number_format_is_exported(options: tuple[str, str], out: Path) -> None:
    said: list[str] = []
    assert finished_message(config_of(out, *options), said.append) is None
    assert f"-> {options[1]}" in said[0]


@pytest.mark.parametrize("changed", [("--evaluate.limits.drift", "0.6"), ("--evaluate.goal", "subject")])
def test_another_rule_exports_a_scored_run_again_and_leaves_others(changed: tuple[str, str], out: Path) -> None:
    said: list[str] = []
    assert "is finished" in (finished_message(config_of(out, *changed), said.append) or "") and said == []
    scored = ("--evaluate.every", "2")
    (out / "config.yaml").write_text(dump(config_of(out, *scored)))
    assert "is finished" in (finished_message(config_of(out, *scored), said.append) or "") and said == []
    assert finished_message(config_of(out, *scored, *changed), said.append) is None
    assert f"{changed[0].removeprefix('--')} " in said[0] and f"-> {changed[1]}" in said[0]


def test_other_options_are_seen_without_config_yaml(out: Path) -> None:
    (out / "config.yaml").rename(out / "checkpoints" / "step_000006" / "config.yaml")
    with pytest.raises(ValueError, match=r"lora\.rank"):
        finished_message(config_of(out, "--lora.rank", "3"))


def test_what_others_put_into_a_folder_is_kept_when_it_is_replaced(tmp_path: Path) -> None:
    old, new = tmp_path / "export", tmp_path / ".export.unfinished"
    for folder, names in (
        (old, ("model_index.json", "unet/a-00001-of-00002.safetensors", "notes/mine.txt", "unet/readme.md")),
        (new, ("model_index.json", "unet/a.safetensors")),
    ):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(folder.name)
    (old / "link").symlink_to("nowhere")
    old.rename(tmp_path / ".export.replaced")  # as a kill leaves it
    replace_folder(new, old)
    found = {path.relative_to(old).as_posix() for path in old.rglob("*") if path.is_file() or path.is_symlink()}
    assert found == {"model_index.json", "unet/a.safetensors", "notes/mine.txt", "unet/readme.md", "link"}
    assert (old / "model_index.json").read_text() == new.name
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
