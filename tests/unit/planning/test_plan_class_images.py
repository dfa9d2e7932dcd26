from pathlib import Path

import pytest

from finetune.planning.plan import plan_lines, read_plan
from tests.tiny.sd import save_pictures


def options(pictures: Path, folder: Path) -> list[str]:
    given = {"data.folder": pictures, "prior.folder": folder, "instance.prompt": "a sks dog", "prior.prompt": "a dog"}
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


@pytest.mark.parametrize(("count", "counted"), [(3, "3 class images"), (1, "1 class image;")])
def test_class_images_are_counted(count: int, counted: str, pictures: Path, tmp_path: Path) -> None:
    save_pictures(tmp_path / "class", count=count, size=64)
    printed = "\n".join(plan_lines(read_plan("dreambooth", options(pictures, tmp_path / "class"), 1)))
    assert f"14 instance and {counted}" in printed
    assert "because instance.captions is false" in printed and "data.captions" not in printed


def test_a_folder_of_class_images_that_is_missing_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^prior\.folder: "):
        read_plan("dreambooth", options(pictures, tmp_path / "absent"), 1)
