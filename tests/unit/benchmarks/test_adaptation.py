"""Runs, kept images and tables of benchmarks/methods.py."""

import importlib
import subprocess
import sys
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  (its first import on a machine asks fontconfig, a process)
import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from adaptation.concepts import Concepts, free_concepts
from adaptation.diffusers_script import RUN_SCRIPT, captioned, scripts_of
from adaptation.images import Drawing, keep, kept_or_drawn, read_set
from adaptation.methods import STYLE, SUBJECT, Method
from adaptation.report import curve_table, images_until, save_curves, until_table
from adaptation.runs import Job, Point, draw_points
from adaptation.style import Figures, Row, style_jobs
from adaptation.subject import write_views
from quality.features import shapes

from finetune.config.parse.recipe_options import RECIPES, parse_recipe
from tests.tiny.sd import save_pictures
from tools.icons import Icon

DRAWING = Drawing(("a", "b"), steps=3)


def blocks(seed: int, count: int = 8) -> np.ndarray:
    """Images of a few rectangles each, dark on white."""
    random = np.random.default_rng(seed)
    images = np.ones((count, 64, 64, 3), np.float32)
    for image in images:
        for top, left in random.integers(4, 44, (3, 2)):
            image[top : top + 14, left : left + 14] = 0.1
    return images


def row(method: str, step: int, *ratio_and_kept: tuple[float, float], strength: float = 1.0) -> Row:
    seeds = tuple(Figures(ratio, kept / 2, kept) for ratio, kept in ratio_and_kept)
    return Row("style_line", method, Point(step, strength), seeds)


@pytest.mark.parametrize("method", [*STYLE, *SUBJECT], ids=lambda method: f"{method.part}-{method.name}")
def test_every_method_is_a_command_that_its_recipe_reads(method: Method, tmp_path: Path) -> None:
    job = Job(method, tmp_path / "set", "teapot", (Point(25), Point(100)), seed=2)
    flags = job.command(tmp_path / "run", tmp_path / "cache")[3:]
    config, _ = parse_recipe(RECIPES[method.recipe], flags, method.recipe, print)
    assert (config.train.steps, config.train.batch_size, config.seed) == (100, 16, 2)
    assert config.checkpoint.every == 25 and config.checkpoint.keep > 4


def test_one_method_has_a_run_per_seed_and_its_last_step_at_strengths(tmp_path: Path) -> None:
    repeated, single = (
        style_jobs(tmp_path, "s", method, (Point(2), Point(4)), [0.5], 3)
        for method in (next(method for method in STYLE if method.is_repeated is wanted) for wanted in (True, False))
    )
    assert [job.seed for job in repeated] == [0, 1, 2] and len({job.name for job in repeated}) == 3
    assert repeated[0].points == (Point(2), Point(4), Point(4, 0.5)) and repeated[0].steps == 4
    assert [job.points for job in single] == [(Point(2), Point(4))]


def test_a_concept_is_first_in_other_colours_and_not_in_another_drawing() -> None:
    images = blocks(0)
    concepts = Concepts(
        tuple("abcdefgh"), tuple(np.concatenate([shapes(one[None]), shapes(blocks(9, 2))]) for one in images)
    )
    assert concepts.figures(np.concatenate([1 - images, images * [0.9, 0.4, 0.2]])) == {"top_1": 1.0, "top_5": 1.0}
    assert concepts.figures(np.roll(images, 1, axis=0))["top_1"] < 0.3


def test_concepts_that_share_a_word_with_a_caption_or_have_few_styles_are_not_free() -> None:
    def icons(concept: str, num: int) -> list[Icon]:
        return [Icon(Path("t"), 0, concept, f"style {number}", "a") for number in range(num)]

    known = {"red key": icons("red key", 9), "cup": icons("cup", 9), "bell": icons("bell", 3)}
    assert free_concepts(known, ["a key", "lamp"]) == ["cup"]


def test_kept_images_are_read_for_the_same_prompts_alone(tmp_path: Path) -> None:
    def not_needed() -> object:
        raise AssertionError("it was drawn")

    images = keep(tmp_path / "x.npz", DRAWING, np.full((2, 4, 4, 3), 0.5))
    assert np.array_equal(kept_or_drawn(tmp_path / "x.npz", DRAWING, not_needed), images)
    with pytest.raises(AssertionError, match="drawn"):
        kept_or_drawn(tmp_path / "x.npz", Drawing(("a", "c"), steps=3), not_needed)


def test_points_are_drawn_once_and_the_run_is_removed(tmp_path: Path) -> None:
    points, trained = (Point(1), Point(2, 0.5)), list[Path]()

    class Pipeline:
        def __call__(self, prompts: list[str], **options: object) -> "Pipeline":
            self.images = np.zeros((len(prompts), 4, 4, 3))
            return self

    def train(run: Path) -> object:
        trained.append(run)
        run.mkdir()
        return lambda point: Pipeline()

    for _ in range(2):
        found = draw_points(tmp_path / "job", ["command"], points, DRAWING, train)  # pyright: ignore[reportArgumentType]
        assert found is not None and set(found) == set(points) and found[Point(1)].shape == (2, 4, 4, 3)
    assert len(trained) == 1 and not trained[0].exists()
    with pytest.raises(ValueError, match="another command"):
        draw_points(tmp_path / "job", ["other"], points, DRAWING, train)  # pyright: ignore[reportArgumentType]


def test_a_failed_command_has_no_points(tmp_path: Path) -> None:
    def train(run: Path) -> None:
        raise subprocess.CalledProcessError(1, ["recipe"])

    assert draw_points(tmp_path / "job", ["x"], (Point(1),), DRAWING, train) is None  # pyright: ignore[reportArgumentType]


def test_images_until_counts_to_the_first_point_within_both_limits() -> None:
    curve = [row("a", 10, (0.5, 1.0)), row("a", 20, (0.2, 0.7)), row("a", 40, (0.1, 0.7), (0.3, 1.0))]
    assert images_until(curve) == "640"
    assert images_until(curve[:2]) == "not in 320"
    assert until_table([*curve, row("a", 40, (0.1, 1.0), strength=0.5)]) == [("method", "style_line"), ("a", "640")]


def test_the_table_has_each_point_and_the_curves_are_an_image(tmp_path: Path) -> None:
    rows = [Row("style_line", "base model", None, (Figures(1, 0.5, 0.75),)), row("a", 10, (0.5, 1.0), (0.3, 0.8))]
    rows.append(row("a", 10, (0.8, 1.0), strength=0.5))
    assert curve_table(rows)[1] == ("style_line", "base model", "", "", "1.00", "0.50", "0.75")
    assert curve_table(rows)[2] == ("style_line", "a", "10", "1", "0.40 +- 0.10", "0.45 +- 0.05", "0.90 +- 0.10")
    save_curves(rows, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 300


def test_views_show_the_icon_in_the_other_colour(tmp_path: Path) -> None:
    icon = Image.new("RGB", (64, 64), "white")
    icon.paste((230, 46, 46), (16, 16, 48, 48))
    captions, views = read_set(write_views(tmp_path / "views", icon, "cup", "red", "green"))
    assert captions == ["cup"] * 5
    assert (views[:, 32, 32, 1] > views[:, 32, 32, 0]).all()


def test_the_script_gets_captions_in_the_phrase_and_its_own_default_rate(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    with pytest.raises(FileNotFoundError, match="examples of a diffusers checkout"):
        scripts_of(examples, (Point(2),), ())
    (examples / "text_to_image").mkdir(parents=True)
    (examples / "text_to_image" / "train_text_to_image_lora.py").write_text("")
    default, ours = scripts_of(examples, (Point(2), Point(4)), (8,))
    assert [point.step for point in default.points] == [2, 4, 8] and [point.step for point in ours.points] == [2, 4]
    flags = default.command(tmp_path / "set", tmp_path / "run")
    assert flags[flags.index("--learning_rate") + 1] == "0.0001" and flags[flags.index("--rank") + 1] == "4"
    captions, _ = read_set(captioned(save_pictures(tmp_path / "source", count=2, size=64), tmp_path / "captioned"))
    assert len(captions) == 2 and all(caption.endswith(", zqx style") for caption in captions)


def test_transforms_of_the_script_are_those_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RUN_SCRIPT.parent / "parts"))
    transforms = importlib.import_module("torchvision.transforms")
    image = Image.new("RGB", (6, 4), (255, 0, 51))
    steps = [transforms.Resize(2, interpolation=transforms.InterpolationMode.LANCZOS), transforms.CenterCrop(2)]
    steps += [transforms.RandomCrop(2), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    pixels = transforms.Compose(steps)(image)
    assert pixels.shape == (3, 2, 2)
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([1.0, -1.0, -0.6]))
    half = Image.new("L", (2, 1))
    half.putpixel((0, 0), 9)
    torch.manual_seed(0)
    assert {transforms.RandomHorizontalFlip()(half).tobytes() for _ in range(20)} == {b"\x09\x00", b"\x00\x09"}
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules.pop(name)
