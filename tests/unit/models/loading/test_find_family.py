import shutil
from pathlib import Path

import pytest

from finetune.config.checks import problems
from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import dump
from finetune.config.sections import ModelConfig
from finetune.config.train import TrainConfig
from finetune.models import FAMILIES, family_named, refuse_unknown_family
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelFamily, ModelSource
from finetune.models.loading.components import find_family
from finetune.models.text.doctor import tokens_text
from finetune.run_folder.options import changed_options
from tests.support.damage import change_json


class Other(StableDiffusion):
    title = "Another architecture"
    pipelines = ("OtherPipeline",)
    single_files = {}  # noqa: RUF012


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> ModelFamily:
    monkeypatch.setitem(FAMILIES, "other", "tests.unit.models.loading.test_find_family:Other")
    return family_named("other")


def with_pipeline(model: Path, target: Path, name: str) -> ModelSource:
    folder = shutil.copytree(model, target)
    change_json(folder / "model_index.json", _class_name=name)
    return ModelSource(str(folder))


def test_the_family_is_found_by_the_pipeline(tiny_model: Path, tmp_path: Path, other: ModelFamily) -> None:
    assert find_family(ModelSource(str(tiny_model))) == "sd"
    assert find_family(with_pipeline(tiny_model, tmp_path / "other", "OtherPipeline")) == "other"


def test_every_pipeline_is_read_or_refused_by_one_family(tiny_model: Path, tmp_path: Path) -> None:
    read = [(pipeline, name) for name in FAMILIES for pipeline in family_named(name).pipelines]
    refused = [pipeline for name in FAMILIES for pipeline in family_named(name).refused_pipelines]
    assert len({*refused, *(pipeline for pipeline, _ in read)}) == len(refused) + len(read)
    for pipeline, name in read:
        assert find_family(with_pipeline(tiny_model, tmp_path / pipeline, pipeline)) == name


@pytest.mark.parametrize("given", [None, "sd", "flux"])
def test_a_pipeline_that_a_family_knows_and_refuses_is_refused_with_its_reason(
    given: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    source = with_pipeline(tiny_model, tmp_path / "fill", "FluxFillPipeline")
    with pytest.raises(ValueError, match=r"names the pipeline FluxFillPipeline.* Inpainting models of FLUX") as caught:
        find_family(source, given)
    assert "No family trains it" not in str(caught.value)


def test_another_familys_checkpoint_is_refused_with_the_right_name(
    tiny_model: Path, tmp_path: Path, other: ModelFamily
) -> None:
    with pytest.raises(ValueError, match=r"StableDiffusionPipeline, expected one of OtherPipeline .*--model.family sd"):
        find_family(ModelSource(str(tiny_model)), "other")
    with pytest.raises(ValueError, match=r"--model.family other"):
        find_family(with_pipeline(tiny_model, tmp_path / "other", "OtherPipeline"), "sd")


def test_a_checkpoint_that_no_family_trains_is_refused_with_those_known(tiny_model: Path, tmp_path: Path) -> None:
    source = with_pipeline(tiny_model, tmp_path / "copy", "KandinskyPipeline")
    with pytest.raises(ValueError, match=r"KandinskyPipeline\. No family trains it; .*sd \(Stable Diffusion 1\.x"):
        find_family(source)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got sdd, expected one of sd.*Did you mean sd\?"):
        refuse_unknown_family("sdd")
    refuse_unknown_family(None)


def test_a_run_that_found_its_family_is_the_run_that_was_told(tmp_path: Path) -> None:
    common = ["--model.source", "MODEL", "--data.folder", "data", "--output.folder", str(tmp_path / "out")]
    found = parse(TrainConfig, common, program="t")
    told = parse(TrainConfig, [*common, "--model.family", "sd"], program="t")
    assert found.model.family is None
    for config in (found, told):
        (tmp_path / "config.yaml").write_text(dump(config))
        assert parse(TrainConfig, ["--config", str(tmp_path / "config.yaml")], program="t") == config
    (tmp_path / "config.yaml").write_text(dump(told))
    assert changed_options(found, tmp_path / "config.yaml") == []
    other = parse(TrainConfig, [*common, "--model.family", "other"], program="t")
    assert changed_options(other, tmp_path / "config.yaml") == ["model.family sd -> other"]


def test_rare_words_need_no_family(tiny_model: Path) -> None:
    assert tokens_text(ModelConfig(str(tiny_model)), 3) == tokens_text(ModelConfig(str(tiny_model), "sd"), 3)
    with pytest.raises(ValueError, match="Did you mean sd"):
        tokens_text(ModelConfig(str(tiny_model), "sdd"), 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "models/old.ckpt"}, ("is a pickle", "weights_only=True", "old.ckpt")),
        ({"source": "pytorch_model.bin"}, ("is a pickle",)),
        ({"source": "old.CKPT"}, ("is a pickle",)),
        ({"source": "dev-Q4_K_S.gguf"}, ("is a GGUF file", "original model", "--model.quantization nf4")),
        ({"source": __file__}, ("test_find_family.py is a file of another kind", "expected a folder")),
        ({"source": "m.safetensors", "revision": "main"}, ("model.revision", "Remove it")),
        ({"source": "m.safetensors", "variant": "fp16"}, ("model.variant", "Remove it")),
        ({"source": "owner/name", "config": Path("configs")}, ("model.config", "not a .safetensors file")),
        ({"source": ""}, ("model.source: got an empty text",)),
    ],
)
def test_options_that_do_not_go_together_are_refused_without_torch(
    options: dict[str, str], words: tuple[str, ...]
) -> None:
    (problem,) = problems(ModelConfig(**options), "model")  # pyright: ignore[reportArgumentType]
    assert [word for word in words if word not in problem] == []
