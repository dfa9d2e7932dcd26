import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.imports.folders import whole_repeats
from tests.unit.imports.test_import import imported


def written(theirs: object, path: Path) -> tuple[dict[str, Any], str]:
    """Import a config; return what was written, and the printed lines."""
    path.write_text(json.dumps(theirs))
    text, _ = imported(path, path.with_suffix(".new.yaml"))
    return yaml.safe_load(path.with_suffix(".new.yaml").read_text()), text


def images(folder: Path, num: int) -> str:
    """Make a folder with empty files of images' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num):
        (folder / f"{number}.png").touch()
    return str(folder)


def one_trainer(*concepts: dict[str, object], **options: object) -> dict[str, object]:
    """Return a config of OneTrainer with batches of one image."""
    small = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "base_model_name": "m", "batch_size": 1}
    return small | {"concepts": list(concepts)} | options


@pytest.mark.parametrize("is_here", [True, False])
def test_fractional_repeats_of_several_folders_keep_the_length_of_a_run(is_here: bool, tmp_path: Path) -> None:
    for name, num in (("a", 2), ("b", 2)):
        if is_here:
            images(tmp_path / name, num)
    concepts = [{"path": str(tmp_path / name), "balancing": times} for name, times in (("a", 0.5), ("b", 3))]
    theirs = one_trainer(*concepts, epochs=3, learning_rate_warmup_steps=0.2)
    config, text = written(theirs, tmp_path / "theirs.json")
    assert [each.get("repeats", 1) for each in config["data"]["folders"]] == [1, 6]
    assert config["train"]["epochs"] == 1.5  # 1.5 passes of 14 images are 3 epochs of 7
    assert "epochs 3 -> train.epochs 1.5: an epoch there is 0.5 passes over the folders" in text
    if is_here:
        assert config["optim"]["warmup_steps"] == 4  # a fifth of 21 steps


def test_steps_of_a_run_are_those_of_finetune_plan(tmp_path: Path) -> None:
    folder = images(tmp_path / "a", 10)
    concepts = {"path": folder, "balancing": 2, "include_subdirectories": True}
    theirs = one_trainer(concepts, epochs=5, batch_size=8, learning_rate_warmup_steps=0.5)
    config, text = written(theirs, tmp_path / "theirs.json")
    assert config["train"]["epochs"] == 10
    assert "a share of 13 steps" in text and config["optim"]["warmup_steps"] == 6  # 100 images / 8, not 10 x 3 x 8


def test_numbers_of_samples_become_repeats_of_the_images_that_are_here(tmp_path: Path) -> None:
    few, fixed = images(tmp_path / "few", 2), images(tmp_path / "fixed", 2)
    concepts = [{"path": few}, {"path": fixed, "balancing": 5, "balancing_strategy": "SAMPLES"}]
    config, text = written(one_trainer(*concepts, epochs=4), tmp_path / "theirs.json")
    assert [each["repeats"] for each in config["data"]["folders"]] == [2, 5]  # 4 and 10 in a pass
    assert config["train"]["epochs"] == 2  # 28 samples, as 4 epochs of 2 + 5
    assert "(balancing 5, balancing_strategy SAMPLES)" in text

    single = {"path": fixed, "balancing": 50, "balancing_strategy": "SAMPLES"}
    config, text = written(one_trainer(single, epochs=2), tmp_path / "single.json")
    assert config["train"]["epochs"] == 50  # 100 samples of 2 images
    assert "every image of the folder is used" not in text


def test_few_samples_of_a_large_folder_keep_their_ratio() -> None:
    assert whole_repeats([1, 5 / 300]) == [60, 1]
    assert whole_repeats([0.5, 3]) == [1, 6]


def test_numbers_of_samples_of_absent_images_are_named(tmp_path: Path) -> None:
    concepts = [{"path": "absent"}, {"path": "away", "balancing": 5, "balancing_strategy": "SAMPLES"}]
    config, text = written(one_trainer(*concepts, epochs=4), tmp_path / "theirs.json")
    assert "repeats" not in config["data"]["folders"][1] and config["train"]["epochs"] == 4
    assert "concepts[1].path away: balancing 5 SAMPLES is 5 samples an epoch" in text


def test_images_in_subfolders_that_one_trainer_does_not_read_are_named(tmp_path: Path) -> None:
    images(tmp_path / "own" / "inner", 3)
    concept: dict[str, object] = {"path": images(tmp_path / "own", 2)}
    _, text = written(one_trainer(concept), tmp_path / "theirs.json")
    assert "include_subdirectories is not given, false there; here 3 images in inner are read too" in text
    _, text = written(one_trainer(concept | {"include_subdirectories": True}), tmp_path / "all.json")
    assert "are read too" not in text


def simple_tuner(backends: list[dict[str, object]], path: Path, **options: object) -> tuple[dict[str, Any], str]:
    """Import a config of SimpleTuner with backends of local folders."""
    (path.parent / f"{path.stem}.backends.json").write_text(
        json.dumps([{"id": each["instance_data_dir"], "type": "local"} | each for each in backends])
    )
    named = {"model_type": "lora", "model_family": "sd1x", "pretrained_model_name_or_path": "m", "max_train_steps": 10}
    return written(named | {"data_backend_config": f"{path.stem}.backends.json"} | options, path)


def test_a_backend_without_a_resolution_has_the_global_one(tmp_path: Path) -> None:
    text_files = {"caption_strategy": "textfile"}
    backends = [{"instance_data_dir": "a", "resolution": 512} | text_files, {"instance_data_dir": "b"} | text_files]
    config, text = simple_tuner(backends, tmp_path / "st.json", resolution=768)
    assert config["data"]["resolution"] == 512
    assert config["data"]["folders"] == [{"folder": "a"}, {"folder": "b", "resolution": 768}]
    assert "resolution 768 -> resolution of folders without one" in text
    config, _ = simple_tuner(backends, tmp_path / "default.json")
    assert config["data"]["folders"][1] == {"folder": "b", "resolution": 1024}

    datasets: list[dict[str, object]] = [{"folder_path": "a", "resolution": [768]}, {"folder_path": "b"}]
    config, _ = written(ai_toolkit(datasets), tmp_path / "ai.json")
    assert config["data"]["folders"] == [{"folder": "a"}, {"folder": "b", "resolution": 512}]


def test_captions_from_file_names_are_named_for_every_backend(tmp_path: Path) -> None:
    backends: list[dict[str, object]] = [
        {"instance_data_dir": "a", "caption_strategy": "textfile"},
        {"instance_data_dir": "b", "caption_strategy": "filename"},
        {"instance_data_dir": "c"},
    ]
    _, text = simple_tuner(backends, tmp_path / "st.json")
    assert "backend a.instance_data_dir a: caption" not in text
    assert "backend b.instance_data_dir b: caption_strategy filename; captions are read beside" in text
    assert "backend c.instance_data_dir c: caption_strategy not given, filename there; captions" in text
    _, text = simple_tuner(backends[1:2], tmp_path / "single.json")
    assert "backend.caption_strategy filename: captions are read beside" in text


@pytest.mark.parametrize("place", ["config", "backend"])
def test_a_prompt_of_simple_tuner_is_a_caption_and_asks_for_no_class(place: str, tmp_path: Path) -> None:
    given: dict[str, object] = {"instance_prompt": "a lamp", "caption_strategy": "instanceprompt"}
    backend = {"instance_data_dir": "a"} | (given if place == "backend" else {})
    options = {} if place == "backend" else given
    config, text = simple_tuner([backend], tmp_path / "st.json", **options)
    assert "for recipes.lora" in text and "instance" not in config and "prior" not in config
    assert (config["data"]["template"], config["data"]["captions"]) == ("a lamp", "none")

    config, text = simple_tuner([backend, {"instance_data_dir": "b"}], tmp_path / "several.json", **options)
    assert "template" not in config["data"] and config["data"]["folders"][0] == {"folder": "a", "caption": "a lamp"}
    assert config["data"]["folders"][1].get("caption") == ("a lamp" if place == "config" else None)


def test_an_unused_prompt_of_simple_tuner_is_named(tmp_path: Path) -> None:
    backend: dict[str, object] = {"instance_data_dir": "a", "caption_strategy": "textfile"}
    config, text = simple_tuner([backend], tmp_path / "st.json", instance_prompt="a lamp")
    assert "for recipes.lora" in text and "template" not in config["data"]
    assert "instance_prompt a lamp: it is a caption with caption_strategy instanceprompt alone" in text


def test_batch_sizes_of_further_datasets_are_named(tmp_path: Path) -> None:
    datasets = [
        {"batch_size": size, "resolution": 512, "subsets": [{"image_dir": folder}]}
        for size, folder in ((4, "a"), (1, "b"))
    ]
    config, text = written({"network_dim": 4, "datasets": datasets}, tmp_path / "sd.json")
    assert config["train"]["batch_size"] == 4
    assert "datasets[1].subsets[0].image_dir b: batch_size 1; that of the first folder holds for all, 4" in text


def test_a_further_dataset_without_a_resolution_is_named(tmp_path: Path) -> None:
    datasets = [{"resolution": 768, "subsets": [{"image_dir": "a"}]}, {"subsets": [{"image_dir": "b"}]}]
    _, text = written({"network_dim": 4, "datasets": datasets}, tmp_path / "theirs.json")
    assert "datasets[1].subsets[0].image_dir b: resolution not given; there the global one holds" in text
    assert "image_dir a: resolution" not in text


def test_words_around_captions_are_joined_by_a_space(tmp_path: Path) -> None:
    subset = {"image_dir": "a", "caption_prefix": "foo ", "caption_suffix": ", ink"}
    config, _ = written({"network_dim": 4, "datasets": [{"subsets": [subset]}]}, tmp_path / "sd.json")
    assert config["data"]["template"] == "foo {caption} , ink"


def ai_toolkit(datasets: list[dict[str, object]], **process: object) -> dict[str, object]:
    """Return a config of ai-toolkit."""
    content = {"type": "sd_trainer", "network": {"linear": 4}, "datasets": datasets, "train": {"steps": 10}} | process
    return {"job": "extension", "config": {"name": "x", "process": [content]}}


def test_options_of_class_images_are_named(tmp_path: Path) -> None:
    own: dict[str, object] = {"folder_path": "a", "resolution": [512], "caption_ext": "txt"}
    of_class: dict[str, object] = {
        "folder_path": "b",
        "is_reg": True,
        "resolution": [768],
        "flip_x": True,
        "caption_dropout_rate": 0.3,
    }
    of_class |= {"mask_path": "m", "network_weight": 0.5, "loss_multiplier": 0.7, "caption_ext": "json"}
    _, text = written(ai_toolkit([own, of_class]), tmp_path / "single.json")
    for words in ("resolution [768]", "flip_x true", "caption_dropout_rate 0.3", "mask_path m", "network_weight 0.5"):
        assert f"datasets[1].folder_path b: {words}" in text
    assert "loss_multiplier 0.7 of class images: prior.weight is theirs" in text
    assert "caption_ext json" not in text  # captions are read from both

    config, text = written(ai_toolkit([own, own | {"folder_path": "c"}, of_class]), tmp_path / "several.json")
    assert config["data"]["folders"][2]["resolution"] == 768 and config["data"]["folders"][2]["weight"] == 0.7
    for words in ("flip_x true", "caption_dropout_rate 0.3", "mask_path m", "network_weight 0.5"):
        assert f"datasets[2].folder_path b: {words}" in text


def test_placeholders_in_prompts_of_previews_become_the_trigger(tmp_path: Path) -> None:
    datasets: list[dict[str, object]] = [{"folder_path": "a"}]
    theirs = ai_toolkit(datasets, trigger_word="zkw", sample={"prompts": ["[trigger] in a cafe", "a [name], inked"]})
    config, text = written(theirs, tmp_path / "ai.json")
    assert config["preview"]["prompts"] == ["zkw in a cafe", "a x, inked"]  # [name] is the config's, everywhere
    assert "sample.prompts: [trigger] is zkw, as there" in text
    theirs = ai_toolkit(datasets, sample={"samples": [{"prompt": "[trigger] in a cafe", "width": 512}]})
    config, text = written(theirs, tmp_path / "without.json")
    assert config["preview"]["prompts"] == ["[trigger] in a cafe --w 512"]
    assert "sample.samples: preview.prompts has [trigger] or [name] without trigger_word" in text


def test_notes_say_what_is_read_here(tmp_path: Path) -> None:
    _, text = written(ai_toolkit([{"folder_path": "a", "caption_ext": "json"}]), tmp_path / "ai.json")
    assert "datasets.caption_ext json:" not in text
    theirs = {"network_dim": 4, "enable_wildcard": True, "train_data_dir": "a"}
    config, _ = written(theirs, tmp_path / "sd.json")
    assert config["data"]["expand_syntax"] is True
    backend: dict[str, object] = {"instance_data_dir": "a", "caption_strategy": "textfile"}
    config, text = simple_tuner([backend], tmp_path / "st.json", validation_resolution="1024x768")
    assert config["preview"]["size"] == 896
    assert "validation_resolution 1024x768 -> preview.size 896: the square of that area" in text
    _, text = simple_tuner([backend], tmp_path / "square.json", validation_resolution="1024x1024")
    assert "validation_resolution 1024x1024 -> preview.size 1024\n" in text
