import difflib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from finetune.plurals import plural
from tests.support.images import encoded
from tests.support.runs import TINY, flags, metrics
from tests.tiny.pixart import save_pixart

REPOSITORY = Path(__file__).parents[3]
PACKAGES = ("finetune", "recipes", "datasets_prep")


@dataclass(frozen=True)
class Addition:
    """One example, and what makes it known."""

    kind: str
    interface: str
    example: str | None
    room: str
    changed: str
    replaced: Sequence[tuple[str, str]]


def after(line: str, new: str) -> tuple[str, str]:
    return line, line + new


FULL = "Full(config.full, config.train.text_encoder)"
ADDITIONS = (
    Addition(
        *("model family", "finetune/models/family.py", "pixart", "finetune/models/families"),
        "finetune/models/__init__.py",
        [after('families.flux:Flux",\n', '    "pixart": "finetune.models.families.pixart:PixArtSigma",\n')],
    ),
    Addition(
        *("method", "finetune/methods/base.py", "biases", "finetune/methods"),
        "recipes/full.py",
        [
            (
                f"from finetune.methods.full import Full\n\n    return {FULL}",
                "from finetune.methods.biases import Biases\n\n    return Biases()",
            ),
        ],
    ),
    Addition(
        *("task", "finetune/tasks/base.py", "absolute_error", "finetune/tasks"),
        "recipes/full.py",
        [
            after(
                "from finetune.train import train\n",
                "        from finetune.tasks.absolute_error import MakeAbsoluteError\n",
            ),
            ("method(config), manifest)", "method(config), manifest, MakeAbsoluteError())"),
        ],
    ),
    Addition(
        *("optimizer", "finetune/config/optim.py", None, ""),
        "finetune/config/optim.py",
        [
            after(
                '    "adamw": OptimizerFacts("torch.optim:AdamW", {"fused": True}, shards=True),\n',
                '    "rmsprop": OptimizerFacts("torch.optim:RMSprop", has_betas=False),\n',
            )
        ],
    ),
    Addition(
        *("tracker", "finetune/tracking/backend.py", "csv_file", "finetune/tracking"),
        "finetune/config/tracking.py",
        [after('"trackio"),\n', '    "csv": ("finetune.tracking.csv_file:CsvFile", None),\n')],
    ),
    Addition(
        *("captioner", "datasets_prep/captioners/base.py", "colours", "datasets_prep/captioners"),
        "datasets_prep/config/captions.py",
        [after('http:HttpCaptioner",\n', '    "colours": "datasets_prep.captioners.colours:ColourCaptioner",\n')],
    ),
    Addition(
        *("score", "datasets_prep/scores/scorers.py", "palette", "datasets_prep/scores"),
        "datasets_prep/config/scores.py",
        [
            after(
                "SCORES: Mapping[str, ScoreFacts] = {\n",
                '    "palette": ScoreFacts("datasets_prep.scores.palette:PaletteScorer", "min", "Image.", LOWER),\n',
            )
        ],
    ),
    Addition(
        *("source of images", "datasets_prep/sources/kind.py", "zip_files", "datasets_prep/sources"),
        "datasets_prep/sources/detect.py",
        [
            after("import TarSource\n", "from datasets_prep.sources.zip_files import ZIP_FILES\n"),
            after("SOURCES = (\n", "    ZIP_FILES,\n"),
        ],
    ),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the packages to which nothing is added yet."""
    folder = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        left_out = shutil.ignore_patterns("__pycache__", *(["assets"] if package == "finetune" else []))
        shutil.copytree(REPOSITORY / package, folder / package, ignore=left_out)
    return folder


@pytest.fixture(scope="module")
def rows(house: Path) -> list[str]:
    """Add every example, and return their rows of the table."""
    return [row(addition, add(addition, house)) for addition in ADDITIONS]


def add(addition: Addition, house: Path) -> int:
    """Add an example; return the number of lines changed elsewhere."""
    if addition.example is not None:
        shutil.copy(REPOSITORY / "docs" / "examples" / f"{addition.example}.py", house / addition.room)
    path = house / addition.changed
    before = text = path.read_text(encoding="utf-8")
    for old, new in addition.replaced:
        assert text.count(old) == 1, f"{addition.changed}: {old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return sum(line.startswith("+ ") for line in difflib.ndiff(before.splitlines(), text.splitlines()))


def row(addition: Addition, num_new: int) -> str:
    write, example = "", ""
    if addition.example is not None:
        write, example = f"`{addition.room}/NAME.py`", f"[{addition.example}.py](examples/{addition.example}.py)"
    changed = f"{plural(num_new, 'line')} in `{addition.changed}`"
    return f"| {addition.kind} | {write} | `{addition.interface}` | {changed} | {example} |"


def started(house: Path, module: str, *arguments: str) -> str:
    """Run a module of the copy and return what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(
        command, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_the_files_that_the_page_names_exist() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`([\w/]+\.py)`", page) if not name.endswith("NAME.py")]
    roots = (REPOSITORY, REPOSITORY / "finetune")
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []
    trip = page.split("## The trip of one image", 1)[1].split("\n## ", 1)[0]
    assert 5 <= len(set(re.findall(r"`([\w/]+\.py)`", trip))) <= 8


def test_the_table_of_the_page_is_what_the_examples_took(rows: list[str]) -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    start = next(place for place, line in enumerate(page) if line.startswith("| To add a"))
    assert page[start + 2 : start + 2 + len(rows)] == rows


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
def test_all_that_was_added_works_in_one_run(house: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, colour in (("rose", (200, 40, 30)), ("leaf", (30, 150, 50)), ("sea", (20, 60, 190))):
            noise = torch.randint(0, 60, (72, 72, 3), generator=torch.Generator().manual_seed(len(name)))
            pixels = (torch.tensor(colour) + noise).to(torch.uint8).numpy()
            archive.writestr(f"{name}.png", encoded(Image.fromarray(pixels)))
    Image.new("RGB", (8, 8), (20, 60, 190)).save(tmp_path / "blue.png")
    started(
        house,
        "datasets_prep",
        *("--source", f"{tmp_path / 'images.zip'}", "--output", f"{tmp_path / 'prepared'}", "--workers", "1"),
        *("--captions.captioner", "colours", "--captions.model", "red,green,blue", "--captions.kinds", "short"),
        *("--scores.palette_model", f"{tmp_path / 'blue.png'}", "--scores.min_palette", "0.1"),
    )
    lines = (tmp_path / "prepared" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    found = {each["source"]: each for each in map(json.loads, lines)}
    texts = {"rose.png": "mostly red", "leaf.png": "mostly green", "sea.png": "mostly blue"}
    assert {name: each["text"] for name, each in found.items()} == texts
    assert max(found, key=lambda name: found[name]["scores"]["palette"]) == "sea.png"

    model, out = save_pixart(tmp_path / "model"), tmp_path / "out"
    options = {key: value for key, value in TINY.items() if not key.startswith("lora.")}
    options |= {"model.source": model, "data.folder": tmp_path / "prepared", "cache.folder": tmp_path / "cache"}
    options |= {"output.folder": out, "output.dtype": "fp32", "train.batch_size": 1, "train.steps": 2}
    options |= {"optim.name": "rmsprop", "optim.lr": 1e-3, "tracking.names": ("csv",)}
    printed = started(house, "recipes.full", *flags(options))
    assert "model.family: pixart" in printed and f"csv: {out / 'metrics.csv'}" in printed
    logged = [line.split(",") for line in (out / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    losses = [float(value) for _, name, value in logged if name == "loss/train"]
    assert losses == [pytest.approx(each["loss"]) for each in metrics(out)]
    assert 0.8 < losses[0] < 0.95, "of noise, the mean of |x| is 0.8 and that of x^2 is 1; predictions add to both"
    before, trained = (
        safetensors.torch.load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (model, out / "export")
    )
    assert {name.rpartition(".")[2] for name in before if not torch.equal(before[name], trained[name])} == {"bias"}
