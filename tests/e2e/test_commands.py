import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import as_flat
from tests.support.drawn_folders import add_scored
from tests.support.launch import ROOT, command, succeeded
from tests.support.runs import flags
from tests.support.scored_run import plain_run
from tests.tiny.sd import save_pictures
from tests.unit.config.parse.test_command_line import KINDS, REQUIRED, REQUIRED_BY

HEAVY = ("torch", "diffusers", "transformers", "datasets", "accelerate", "peft", "wandb")

SCRIPT = """
import atexit, runpy, sys
atexit.register(lambda: print("HEAVY", *sorted(set(sys.modules) & set({heavy})), file=sys.stderr))
sys.argv = ["recipes.{recipe}", *sys.argv[1:]]
runpy.run_module("recipes.{recipe}", run_name="__main__")
"""


def ran(
    folder: Path, *arguments: str, recipe: str = "lora", heavy: tuple[str, ...] = HEAVY
) -> subprocess.CompletedProcess[str]:
    """Run a recipe as `python -m` does. The last line of stderr lists the heavy packages it loaded."""
    script = SCRIPT.format(heavy=heavy, recipe=recipe)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("recipe", KINDS)
def test_help_loads_nothing_heavy_and_names_every_option(recipe: str, tmp_path: Path) -> None:
    ended = ran(tmp_path, "--help-all", recipe=recipe, heavy=(*HEAVY, "numpy", "PIL"))
    assert ended.returncode == 0 and ended.stderr.splitlines()[-1] == "HEAVY"
    options = as_flat(parse(KINDS[recipe], REQUIRED_BY[recipe], program="test"))
    assert [option for option in options if f"--{option} " not in ended.stdout] == []
    assert list(tmp_path.iterdir()) == []


def test_comparing_runs_loads_nothing_heavy(tmp_path: Path) -> None:
    runs = [str(plain_run(tmp_path / name)) for name in ("a", "b")]
    script = "import atexit, sys; from finetune.cli import main; "
    script += f"atexit.register(lambda: print('HEAVY', *sorted(set(sys.modules) & set({HEAVY})))); main()"
    said = succeeded(["-c", script, "compare", *runs, "--output", str(tmp_path / "compare.html")])
    assert said.splitlines()[-1] == "HEAVY" and (tmp_path / "compare.html").is_file()


def test_records_and_votes_load_nothing_heavy(tmp_path: Path) -> None:
    add_scored(tmp_path / "one", {"scored/step_000100": 100})
    add_scored(tmp_path / "other", {"scored/step_000200": 200})
    for words in (["records", tmp_path], ["rate", tmp_path / "one", tmp_path / "other", "--show"]):
        script = "import atexit, sys; from finetune.cli import main; "
        script += f"atexit.register(lambda: print('HEAVY', *sorted(set(sys.modules) & set({HEAVY})))); main()"
        assert succeeded(["-c", script, *map(str, words)]).splitlines()[-1] == "HEAVY"


def test_the_help_of_evaluate_loads_nothing_heavy(tmp_path: Path) -> None:
    script = "import atexit, sys; sys.argv[1:] = ['evaluate', '--help']; from finetune.cli import main; "
    script += f"atexit.register(lambda: print(*sorted(set(sys.modules) & {set(HEAVY)!r}), file=sys.stderr)); main()"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0 and ended.stderr.strip() == "" and "--grid.num-seeds" in ended.stdout.replace("_", "-")


def test_help_of_generate_loads_nothing_heavy_and_names_every_option(tmp_path: Path) -> None:
    code = "import sys; from finetune.cli import main; sys.argv = ['finetune', 'generate', '--help']; import atexit; "
    code += f"atexit.register(lambda: print('HEAVY', *sorted(set(sys.modules) & set({HEAVY})))); main()"
    said = succeeded(["-c", code])
    assert said.splitlines()[-1] == "HEAVY"
    options = as_flat(parse(GenerateConfig, ["--model.source", "m", "--prompts", "a", "--output", "o"], program="test"))
    assert [option for option in options if f"--{option} " not in said] == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--optim.lrr", "1", *REQUIRED), "Did you mean optim.lr?"),
        ((), "model.source: missing"),
        (("--train.text_encoder", *REQUIRED), "cache.text"),
        (REQUIRED, "there is no folder pictures"),
        (("--model.family", "sdd", *REQUIRED), "Did you mean sd"),
    ],
    ids=["wrong option", "nothing", "contradiction", "missing data", "unknown family"],
)
def test_a_users_mistake_is_a_sentence_with_exit_code_1_before_anything_heavy_is_loaded(
    arguments: tuple[str, ...], word: str, tmp_path: Path
) -> None:
    ended = ran(tmp_path, *arguments)
    assert ended.returncode == 1
    *message, heavy = ended.stderr.splitlines()
    assert message[0].startswith("error: ") and word in "\n".join(message) and heavy == "HEAVY"
    assert "Traceback" not in ended.stderr


def test_every_command_starts_on_a_system_without_the_modules_and_signals_of_unix(tmp_path: Path) -> None:
    script = f"""
import runpy, signal, sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules |= dict.fromkeys(["fcntl", "resource", "pwd", "grp", "termios"])  # as if they were not installed
del signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.pthread_sigmask
import datasets_prep.captions.stage, datasets_prep.workers.worker, datasets_prep.pipeline, finetune.processes.signals
for module in ["datasets_prep", "finetune.cli", *{[f"recipes.{recipe}" for recipe in KINDS]}]:
    try:
        sys.argv = [module, "--help"]
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        print("ENDED", module, end.code)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("ENDED")]
    assert len(lines) == len(KINDS) + 2 and all(line.endswith(" 0") for line in lines), (lines, ended.stderr)


def test_plan_prints_what_the_run_would_take_and_loads_no_torch(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "pictures", count=12, aspects=(1.0, 1.5))
    listing = folder / "metadata.jsonl"
    listing.write_text(listing.read_text().replace('"text": "', '"text": "[trigger] ', 1))
    options = {"goal": "style", "data.folder": folder, "data.resolution": 64, "data.bucket_step": 16}
    options |= {"config": "sd15_lora_from_pictures", "train.batch_size": 3, "validation.fraction": 0}
    (tmp_path / "prompts.txt").write_text("cat --w 32\n(dog:1.2) --d 3\n")
    options |= {"preview.prompts": tmp_path / "prompts.txt"}
    script = (
        "import sys; from finetune.cli import main; sys.argv[0] = 'finetune'; main(); "
        "assert not {'torch', 'diffusers', 'accelerate'} & set(sys.modules)"
    )
    said = succeeded(["-c", script, "plan", "--processes", "2", "lora", *flags(options)])
    assert "200 steps of 6 images" in said and "100.0 passes of 2.0 steps" in said
    of_caption, of_prompt = [line for line in said.splitlines() if line.startswith("warning")]
    assert "0000.png ([trigger])" in of_caption and "preview.prompts" in of_prompt
    assert "bucket 64x64: 6 images" in said and "rank: 16" in said
    assert "- cat --w 32" in said and "- (dog:1.2) --d 3" in said
    assert not (tmp_path / "OUT").exists() and not (ROOT / "OUT").exists()


def test_plan_refuses_what_is_not_a_recipe() -> None:
    ended = command(["-m", "finetune.cli", "plan", "recipes.loar"])
    assert ended.returncode == 1 and "recipes.lora" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_command_proposes_or_refuses(tiny_model: Path, tmp_path: Path) -> None:
    words = ["-m", "finetune.cli", "doctor", "tokens", "--num", "3", "--model.source"]
    assert "rare words" in succeeded([*words, str(tiny_model)]).lower()
    (tmp_path / "model_index.json").write_text((tiny_model / "model_index.json").read_text())
    ended = command([*words, str(tmp_path)])
    assert ended.returncode == 1 and "tokenizer" in ended.stderr and "Traceback" not in ended.stderr


CAPTIONERS_BUT_HTTP = """
import datasets_prep.captions.generate, datasets_prep.lint.checks, datasets_prep.captioners.http
from datasets_prep.captioners import make_captioner
from datasets_prep.config import CAPTIONERS, CaptionsConfig
for name in set(CAPTIONERS) - {"http"}:
    kinds = ("tags",) if name == "wd_tagger" else ("long",)
    make_captioner(CaptionsConfig(captioner=name, model="m", kinds=kinds))
"""
A_PNG = """
import io
from PIL import Image
from finetune.data.images.decode import open_rgb
data = io.BytesIO()
Image.new("RGB", (9, 9)).save(data, "PNG")
open_rgb(data.getvalue())
"""
RECIPES_AND_OPTIONS = """
import finetune, finetune.cli, finetune.config.drawing.generate, finetune.config.parse.command_line
import finetune.config.pretrain, finetune.launch, finetune.models, finetune.planning.plan
import recipes.full, recipes.lora, recipes.pretrain, recipes.textual_inversion
"""
DATA = "import finetune.data.images.decode, finetune.data.manifest, finetune.data.captions.choice"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (RECIPES_AND_OPTIONS, HEAVY),
        (DATA, ("torch", "datasets", "pyarrow")),
        (A_PNG, ("pillow_heif", "pillow_jxl")),
        (CAPTIONERS_BUT_HTTP, ("torch", "transformers", "onnxruntime")),
    ],
    ids=["recipes", "data", "PNG", "captioners"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str, heavy: tuple[str, ...]) -> None:
    code += f"\nimport sys\nprint(*sorted(set(sys.modules) & set({heavy})))"
    assert succeeded(["-c", code]).split() == []
