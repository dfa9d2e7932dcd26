import re
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.methods.lora.method import LoRA
from finetune.models import FAMILIES, family_named
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.loading.components import find_family
from finetune.models.prompts import join_prompts
from tests.support.runs import TINY, Options, start
from tests.tiny.pixart import save_pixart

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "docs" / "add_a_family.md"
EXAMPLE = REPOSITORY / "docs" / "examples" / "pixart.py"
LINE = '"pixart": "docs.examples.pixart:PixArtSigma"'
NAME, _, PLACE = LINE.replace('"', "").partition(": ")
TEXTS = ["  A red circle on white paper ", "", "a blue cross"]


def register() -> None:
    """Add the line of the page to the registry of this process."""
    FAMILIES[NAME] = PLACE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixart(tmp_path_factory.mktemp("models") / "pixart")


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> ModelFamily:
    monkeypatch.setitem(FAMILIES, NAME, PLACE)
    return family_named("pixart")


@pytest.fixture
def components(family: ModelFamily, model: Path) -> Components:
    return family.load(ModelSource(str(model)))


def bare_lines(code: str) -> str:
    """Return the lines without indentation and empty lines. ruff formats the blocks of a page as separate code."""
    return "\n".join(filter(None, map(str.strip, code.splitlines()))) + "\n"


def test_the_code_of_the_page_is_the_examples() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = bare_lines(EXAMPLE.read_text(encoding="utf-8"))
    assert len(blocks) > 5
    for block in blocks:
        assert bare_lines(block) in example or block.strip() == LINE, f"not in {EXAMPLE.name}:\n{block}"


def test_the_page_names_all_that_a_family_answers() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = [name for name in ModelFamily.__dict__ if not name.startswith("_")]
    names += list(ModelFamily.__annotations__)
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_page_says_how_long_the_example_is() -> None:
    num_lines = len(EXAMPLE.read_text(encoding="utf-8").splitlines())
    assert f"{num_lines} lines" in PAGE.read_text(encoding="utf-8")


def test_it_is_found_by_its_pipeline_and_refuses_others(family: ModelFamily, model: Path, tiny_model: Path) -> None:
    assert find_family(ModelSource(str(model))) == "pixart"
    with pytest.raises(ValueError, match=r"--model.family sd"):
        find_family(ModelSource(str(tiny_model)), "pixart")


@torch.no_grad()
def test_prompts_are_those_of_the_pipeline(family: ModelFamily, components: Components) -> None:
    pipeline: Any = family.pipeline(components)
    expected, mask, _, _ = pipeline.encode_prompt(TEXTS, do_classifier_free_guidance=False)
    found = family.encode_prompts(components.text_encoders, family.tokenize(components.tokenizers, TEXTS))
    assert torch.equal(found.embeddings, expected) and torch.equal(found.mask, mask)
    rows = [found.part(slice(index, index + 1)) for index in range(len(TEXTS))]
    assert torch.equal(join_prompts(rows).mask, mask)


def test_a_caption_that_is_cut_is_named(family: ModelFamily, components: Components) -> None:
    long = "red " * 400
    assert family.cut_captions(components.tokenizers, ["a red circle", long]) == [long]


@torch.no_grad()
def test_the_prediction_is_that_of_the_pipelines_own_call(family: ModelFamily, components: Components) -> None:
    calls: list[Any] = []
    components.denoiser.register_forward_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    pipeline: Any = family.pipeline(components)
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 32, "width": 32, "use_resolution_binning": False}
    generator = torch.Generator().manual_seed(0)
    pipeline("a red circle", clean_caption=False, generator=generator, output_type="latent", **options)
    (noisy,), kwargs, (output,) = calls[0]
    tokens = family.tokenize(components.tokenizers, ["", "a red circle"])
    prompts = family.encode_prompts(components.text_encoders, tokens)
    assert torch.equal(family.denoise(components.denoiser, noisy, kwargs["timestep"], prompts), output[:, :4])


@torch.no_grad()
def test_previews_are_drawn_with_the_same_pictures(family: ModelFamily, components: Components) -> None:
    pipeline: Any = family.pipeline(components)
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent"}
    own = {"prompt": "a red circle", "negative_prompt": "blue", "clean_caption": False, "use_resolution_binning": False}
    prompts = (family.pipeline_prompts(components, "a red circle", "blue"), own)
    generators = (torch.Generator().manual_seed(0) for _ in prompts)
    assert torch.equal(*[pipeline(**each, **options, generator=next(generators)).images for each in prompts])


def test_options_that_it_cannot_follow_are_refused(family: ModelFamily, components: Components) -> None:
    family.objective(components.scheduler, LossConfig())
    with pytest.raises(ValueError, match="expected epsilon"):
        family.objective(components.scheduler, LossConfig(prediction_type="v_prediction"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "lora"])
def test_it_trains_resumes_and_exports(recipe: str, model: Path, pictures: Path, tmp_path: Path) -> None:
    options: Options = {key: value for key, value in TINY.items() if recipe == "lora" or not key.startswith("lora.")}
    options |= {"model.source": model, "data.folder": pictures, "cache.folder": tmp_path / "cache"}
    options |= {"output.folder": tmp_path / "out", "output.dtype": "fp32", "train.batch_size": 1}
    options |= {"train.steps": 2, "lora.kind": "loha"} if recipe == "lora" else {"train.steps": 2, "optim.lr": 1e-3}
    ended = start(recipe, options, tmp_path / "log", prepare=register).wait()
    assert ended.exit_code == 0 and "model.family: pixart (PixArt-Sigma)" in ended.output, ended.output
    ended = start(recipe, options | {"train.steps": 3}, tmp_path / "log", prepare=register).wait()
    assert ended.exit_code == 0 and "at step 2 of 3" in ended.output, ended.output


def test_adapters_that_its_pipeline_cannot_load_are_refused_early(family: ModelFamily, components: Components) -> None:
    with pytest.raises(ValueError, match=r"lora\.kind: got lora.*--lora\.kind loha"):
        LoRA(LoRAConfig()).network(family, components)


def test_without_its_line_it_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="No family trains it"):
        find_family(ModelSource(str(model)))
