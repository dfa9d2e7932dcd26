from pathlib import Path

import pytest

from finetune.planning.plan import print_plan
from tests.tiny.sd import save_pictures


def options(pictures: Path, folder: Path) -> list[str]:
    given = {"data.folder": pictures, "prior.folder": folder, "instance.prompt": "a sks dog", "prior.prompt": "a dog"}
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


def test_class_images_are_counted(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pictures(tmp_path / "class", count=3, size=64, aspects=(1.0,))
    print_plan("dreambooth", options(pictures, tmp_path / "class"), 1)
    printed = capsys.readouterr().out
    assert "14 instance and 3 class images" in printed
    assert "because instance.captions is false" in printed and "data.captions" not in printed


def test_a_single_class_image_is_one(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pictures(tmp_path / "class", count=1, size=64, aspects=(1.0,))
    print_plan("dreambooth", options(pictures, tmp_path / "class"), 1)
    assert "14 instance and 1 class image;" in capsys.readouterr().out


def test_a_folder_of_class_images_that_is_missing_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^prior\.folder: "):
        print_plan("dreambooth", options(pictures, tmp_path / "absent"), 1)
