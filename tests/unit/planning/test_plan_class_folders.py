from pathlib import Path

import pytest

from finetune.planning.plan import plan_lines, read_plan
from tests.support.images import picture, write


def planned(tmp_path: Path, *options: str) -> str:
    for name, num in (("own", 2), ("class", 4)):
        write(tmp_path / name, {f"{n}.png": picture(f"rgb({num},{n},0)", (64, 64)) for n in range(num)})
        write(tmp_path / name, {f"{n}.txt": f"a {name} {n}" for n in range(num)})
    of_class = f"{{folder: {tmp_path / 'class'}, is_regularisation: true}}"
    given = ["--data.folders", str(tmp_path / "own"), of_class, "--data.resolution", "64", "--data.bucket_step", "16"]
    plan = read_plan("dreambooth", [*given, "--instance.prompt", "a sks dog", *options], 1)
    return "\n".join(plan_lines(plan))


def test_class_images_among_the_folders_are_half_of_the_samples_of_a_subject(tmp_path: Path) -> None:
    printed = planned(tmp_path, "--prior.captions", "true")
    assert "2 instance and 4 class images; 50.0% of the samples are of the instance." in printed
    assert "folder class: 4 class images, 4 samples of a pass (50.0%)" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prior.kind", "none"), "is_regularisation true with prior.kind none"),
        (("--prior.prompt", "a dog", "--prior.folder", "x"), "is_regularisation true with prior.folder x"),
        (("--prior.prompt", "a dog", "--data.trigger", "sks"), "every image gets instance.prompt"),
    ],
)
def test_class_images_in_two_places_are_refused(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        planned(tmp_path, *options)
