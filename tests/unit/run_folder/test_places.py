import contextlib
from pathlib import Path

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import parse
from finetune.config.recipes import LoRATrainConfig
from finetune.config.train import TrainConfig
from finetune.run_folder.places import refuse_nested_folders


def config_of(root: Path, kind: type[TrainConfig] = LoRATrainConfig, **folders: str) -> TrainConfig:
    chosen = {"model.source": "model", "data.folder": "images", "output.folder": "out", "cache.folder": "cache"}
    chosen |= {key.replace("_", "."): place for key, place in folders.items()}
    flags = [part for key, place in chosen.items() for part in (f"--{key}", str(root / place))]
    extra = ["--prior.prompt", "a cat", "--instance.prompt", "a sks cat"] if kind is DreamBoothTrainConfig else []
    extra += ["--mask.kind", "file"] if "mask_folder" in folders else []
    return parse(kind, [*flags, *extra], program="recipes.lora")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("images/inner", "model", "masks/inner", "classes/inner", "real", "out/export"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("images")
    return tmp_path


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"output_folder": "images"}, "output.folder.* is data.folder"),
        ({"output_folder": "images/new/run"}, "output.folder.* is in data.folder"),
        ({"output_folder": "link/run"}, "output.folder.* is in data.folder"),
        ({"data_folder": "images/inner", "output_folder": "images"}, "output.folder.* contains data.folder"),
        ({"cache_folder": "images/cache"}, "cache.folder.* is in data.folder"),
        ({"data_folder": "images/inner", "cache_folder": "images"}, "cache.folder.* contains data.folder"),
        ({"output_folder": "cache"}, "output.folder.* is cache.folder"),
        ({"output_folder": "cache/run"}, "output.folder.* is in cache.folder"),
        ({"cache_folder": "out/cache"}, "output.folder.* contains cache.folder"),
        ({"mask_folder": "masks", "output_folder": "masks/run"}, "is in mask.folder"),
        ({"output_folder": "model"}, "output.folder.* is model.source"),
        ({"output_folder": "model/unet/run"}, "output.folder.* is in model.source"),
        ({"cache_folder": "model/cache"}, "cache.folder.* is in model.source"),
        ({"model_vae": "real", "output_folder": "real/run"}, "output.folder.* is in model.vae"),
        ({"model_source": "out/export"}, "model.source .* is the export of the run in .*out, which this run would"),
    ],
)
def test_a_folder_within_another_is_refused(folders: dict[str, str], words: str, root: Path) -> None:
    with pytest.raises(ValueError, match=words):
        refuse_nested_folders(config_of(root, **folders))


@pytest.mark.parametrize(
    ("mirror", "data", "words"),
    [
        ("runs/ink", "s3://bucket/images", "got runs/ink, expected the URL of remote storage"),
        ("file:///runs/ink", "s3://bucket/images", "got file:///runs/ink, expected the URL"),
        ("s3://bucket/images/run", "s3://bucket/images", "overlap"),
        ("s3a://bucket/", "s3://bucket/images", "overlap"),
        ("s3://bucket/images2", "s3://bucket/images", None),
    ],
)
def test_a_mirror_is_a_url_beside_the_images(mirror: str, data: str, words: str | None, root: Path) -> None:
    flags = ["--model.source", "model", "--data.folder", data, "--output.folder", str(root / "out")]
    config = parse(LoRATrainConfig, [*flags, "--output.mirror", mirror], program="recipes.lora")
    with contextlib.nullcontext() if words is None else pytest.raises(ValueError, match=words):
        refuse_nested_folders(config)


def test_class_images_are_not_written_to(root: Path) -> None:
    config = config_of(root, DreamBoothTrainConfig, prior_folder="classes", output_folder="classes/inner")
    with pytest.raises(ValueError, match=r"is in prior\.folder"):
        refuse_nested_folders(config)


def test_folders_side_by_side_are_fine(root: Path) -> None:
    refuse_nested_folders(config_of(root, output_folder="images2", cache_folder="images.cache"))
    refuse_nested_folders(config_of(root, model_source="out/export", output_folder="out/further"))
