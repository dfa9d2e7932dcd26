import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.support.images import picture, write
from tests.support.runs import Options, assert_same_end, completed, kill_after_three_steps, refused

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "gray")


def images(folder: Path, num: int, first: int) -> str:
    files: dict[str, bytes | str] = {}
    for number in range(num):
        colour = COLOURS[(first + number) % len(COLOURS)]
        files[f"{number}.png"] = picture(colour, (64, 64 + 16 * (number % 2)))
        files[f"{number}.txt"] = f"a {{dark|light}} {colour} [trigger]"
    return write(folder, files)


@pytest.fixture
def several(tiny_run: Options, tmp_path: Path) -> Options:
    """Options of a run on two folders and class images."""
    ink, oil, of_class = (images(tmp_path / name, 4, first) for first, name in enumerate(("ink", "oil", "class")))
    folders = (
        f"{{folder: {ink}, share: 0.25, trigger: zkw, caption_suffix: ', ink', resolution: 32}}",
        oil,
        f"{{folder: {of_class}, is_regularisation: true, weight: 0.5}}",
    )
    own = {key: value for key, value in tiny_run.items() if key != "data.folder"}
    own |= {"validation.fraction": 0.2, "validation.every": 4, "data.trigger": "paint", "data.expand_syntax": True}
    return own | {"data.folders": folders, "train.steps": 8}


def test_a_run_on_several_folders_counts_them_and_resumes_to_the_same_weights(several: Options, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    ended = completed("lora", several | {"output.folder": straight}, tmp_path / "log")
    assert "folder ink: " in ended.output and "folder class: 4 class images" in ended.output
    kill_after_three_steps("lora", several | {"output.folder": broken}, tmp_path / "log")
    completed("lora", several | {"output.folder": broken}, tmp_path / "log")
    assert_same_end(straight, broken)

    counted = {each["label"]: each for each in json.loads((straight / "data_card.json").read_text())["folders"]}
    assert counted["class"]["share"] == pytest.approx(0.5, abs=0.01) and counted["class"]["is_class"]
    own = counted["ink"]["num_samples"] + counted["oil"]["num_samples"]
    assert counted["ink"]["num_samples"] / own == pytest.approx(0.25, rel=1e-3)
    with safe_open(next((straight / "export").glob("*.safetensors")), "pt") as file:
        metadata = file.metadata()
    assert set(json.loads(metadata["ss_dataset_dirs"])) == {"ink", "oil"}
    assert set(json.loads(metadata["ss_reg_dataset_dirs"])) == {"class"}
    tags = json.loads(metadata["ss_tag_frequency"])["ink, oil"]
    assert any(tag.endswith("zkw") for tag in tags) and not any("trigger" in tag or "|" in tag for tag in tags)
    assert "folder ink" in (straight / "report.html").read_text()

    write(tmp_path / "oil", {"0.txt": "another caption"})
    more = several | {"output.folder": broken, "train.steps": 9}
    refused("lora", more, tmp_path / "log", "data.folders: the images or captions", "oil/0.png")
