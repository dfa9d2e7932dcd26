import json
from pathlib import Path

import pytest

from finetune.command_options import plan_words
from finetune.sizing.command import PlanOptions, plan
from tests.tiny.sd import save_pictures

SHIPPED = Path(__file__).parents[3] / "finetune" / "assets" / "pictograms"
FITTING = ("--data.resolution", "64")
LARGE: dict[str, object] = {"device": "cpu", "memory_gb": 100.0}
"""A device on which everything fits, so no ladder is climbed."""


def planned(images: Path, *options: str, model: object = SHIPPED, recipe: str = "lora", **own: object) -> str:
    words = ["--data.folder", str(images), "--model.source", str(model)]
    lines: list[str] = []
    plan(PlanOptions(recipe, [*words, *options], **own), lines.append)  # pyright: ignore[reportArgumentType]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("planned") / "images", count=12, size=64)


def test_own_options_are_read_before_or_after_the_recipes() -> None:
    own = ["--memory-gb", "8", "--sharded", "--json"]
    recipes = ["lora", "--train.steps", "5", "--config", "sd15_lora_style"]
    assert plan_words(["plan", *recipes[:3], *own, *recipes[3:]]) == ["plan", *own, *recipes]
    assert plan_words(["plan", *recipes, "--step-seconds=2"]) == ["plan", "--step-seconds=2", *recipes]
    assert plan_words(["presets", "--json"]) == ["presets", "--json"]


def test_a_preset_for_512_pixels_and_too_many_passes_are_told(images: Path) -> None:
    printed = planned(images, "--train.steps", "6540", step_seconds=2.0, **LARGE)
    assert "got 512 pixels, but the base model was made for 64" in printed
    assert "12 images will be seen 545 times each" in printed
    assert "Time: 3:38:00 for 6,540 steps of 2 s (as stated)" in printed


def test_the_ladder_leads_to_a_config_that_fits(images: Path) -> None:
    batch = ("--train.batch_size", "4", "--cache.latents", "false", *FITTING)
    found = json.loads(planned(images, *batch, device="cpu", json=True))
    memory, limit = found["memory"], found["memory"]["most"] * 0.7
    assert memory["num_trained"] == 649_216 and memory["training"] <= memory["most"]
    printed = planned(images, *batch, device="cpu", memory_gb=limit / 1e9)
    options = printed.partition("With these options it fits: ")[2].splitlines()[0].split()
    assert options[:2] == ["--cache.latents", "true"]
    given = dict(zip(batch[::2], batch[1::2], strict=True)) | dict(zip(options[::2], options[1::2], strict=True))
    words = [word for option in given.items() for word in option]
    assert "It fits" in planned(images, *words, device="cpu", memory_gb=limit / 1e9)


def test_caches_count_their_entries(images: Path) -> None:
    found = json.loads(planned(images, "--data.flip", "true", *FITTING, **LARGE, json=True))["caches"]
    assert found["num_latents"] == 24 and found["latents"] == 24 * 4 * 16 * 16 * 4
    uncached = json.loads(planned(images, "--cache.latents", "false", *FITTING, **LARGE, json=True))
    assert uncached["caches"]["num_latents"] == 0 and uncached["ladder"] == []


def test_a_hub_id_that_is_not_cached_is_said_without_a_download(images: Path) -> None:
    printed = planned(images, model="nobody/absent")
    assert "hf download nobody/absent" in printed and "12 of the folder's" not in printed
    assert "passes" in printed  # the rest of the plan is there


def test_a_model_of_another_family_is_refused(images: Path) -> None:
    with pytest.raises(ValueError, match="model_index"):
        planned(images, "--model.family", "flux")


def test_without_a_model_the_plan_says_how_to_get_its_memory(images: Path) -> None:
    lines: list[str] = []
    plan(PlanOptions("lora", ["--data.folder", str(images)]), lines.append)
    assert "Memory: unknown without a model. Add --model.source." in lines


@pytest.mark.parametrize("own", [{"memory_gb": 0.0}, {"step_seconds": -1.0}])
def test_numbers_below_zero_are_refused(images: Path, own: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        planned(images, **own)


def test_a_started_run_has_measured_its_steps(images: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "elapsed_seconds": 5.0}\n{"step": 20, "ela')
    printed = planned(images, "--output.folder", str(tmp_path), *FITTING, **LARGE)
    assert "steps of 0.5 s (measured in" in printed


def test_processes_that_share_the_weights_hold_less_each(images: Path) -> None:
    options = (*FITTING, "--optim.name", "adamw")
    whole = json.loads(planned(images, *options, recipe="full", processes=4, **LARGE, json=True))
    shared = json.loads(planned(images, *options, recipe="full", processes=4, sharded=True, **LARGE, json=True))
    assert shared["is_sharded"] and not whole["is_sharded"]
    assert shared["memory"]["num_trained"] == whole["memory"]["num_trained"]
    for name in ("weights", "gradients", "optimizer"):
        assert shared["memory"][name] == pytest.approx(whole["memory"][name] / 4, rel=0.02)
    assert shared["memory"]["training"] < whole["memory"]["training"]
    printed = planned(images, *options, recipe="full", processes=4, sharded=True, **LARGE)
    assert "in each of 4 processes that share the denoiser's weights (FSDP2)" in printed


def test_options_that_cannot_be_shared_are_refused_as_in_the_run(images: Path) -> None:
    with pytest.raises(ValueError, match="--sharded with one process, expected --processes 2"):
        planned(images, *FITTING, sharded=True)
    with pytest.raises(ValueError, match=r"model\.quantization: got nf4 with FSDP"):
        planned(images, *FITTING, "--model.quantization", "nf4", processes=2, sharded=True)


def test_rungs_that_cannot_be_shared_are_left_out(images: Path) -> None:
    found = json.loads(planned(images, *FITTING, processes=2, sharded=True, device="cpu", json=True))
    options = {name for rung in found["ladder"] for name in rung["options"]}
    assert not options & {"model.quantization", "model.offload", "optim.name", "train.ema_device"}
    assert "--processes NUM --sharded" in planned(images, *FITTING, device="cpu", memory_gb=0.001)
