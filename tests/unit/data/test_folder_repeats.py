import pytest

from finetune.data.folder_repeats import FolderRepeats, folder_repeats, note_class_images
from finetune.data.listing import Findings


def found(*folders: str, choice: FolderRepeats = "auto") -> tuple[dict[str, tuple[int, str]], Findings]:
    findings = Findings()
    images = [f"{folder}/{number}.png".removeprefix("/") for folder in folders for number in (1, 2)]
    return dict(folder_repeats(images, choice, "data.folder_repeats", findings)), findings


def test_numbers_before_names_are_repeats_and_it_is_said() -> None:
    repeats, findings = found("img/10_sks star", "img/1_apple")
    assert repeats == {"img/10_sks star": (10, "sks star"), "img/1_apple": (1, "apple")}
    (line,) = findings.warnings
    assert "10_sks star (10 times), 1_apple (1 times)" in line and "--data.folder_repeats off" in line


@pytest.mark.parametrize("folders", [("2024_holiday", "2023_trip"), ("12_2023", "11_2023"), ("cats", "80s"), ("",)])
def test_other_numbers_are_names(folders: tuple[str, ...]) -> None:
    assert found(*folders)[0] == {} and found(*folders)[1].warnings == ()


@pytest.mark.parametrize(
    "folders", [("1_cat", "2_dog"), ("10_sks", "others"), ("10_sks", ""), ("01_cat",), ("0_cat", "1_dog")]
)
def test_doubtful_names_are_refused_until_the_option_decides(folders: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"--data\.folder_repeats on"):
        found(*folders)[1].raise_errors("", "")
    assert found(*folders, choice="off")[0] == {}
    repeats, findings = found(*folders, choice="on")
    findings.raise_errors("", "")
    assert {number for number, _ in repeats.values()} <= {1, 2, 10}


def test_folders_below_a_numbered_one_have_its_repeats() -> None:
    repeats, findings = found("img/10_sks dog/sub", "img/10_sks dog", "3_set/5_cat/a/b")
    assert repeats == {
        "img/10_sks dog/sub": (10, "sub"),
        "img/10_sks dog": (10, "sks dog"),
        "3_set/5_cat/a/b": (5, "b"),
    }
    (line,) = findings.warnings
    assert "(2): 10_sks dog (10 times), 5_cat (5 times)" in line
    assert found("10_sks dog/sub", choice="off")[0] == {}
    with pytest.raises(ValueError, match="other folders with images have none"):
        found("10_sks dog/sub", "others")[1].raise_errors("", "")


@pytest.mark.parametrize(
    ("folders", "place"),
    [
        (("img/5_foo woman", "reg/1_woman"), "reg/"),
        (("5_foo", "a/Regularization images/1_woman/x"), "a/Regularization images/"),
    ],
)
def test_class_images_beside_the_subject_are_refused(folders: tuple[str, ...], place: str) -> None:
    findings = Findings()
    note_class_images([f"{folder}/1.png" for folder in folders], "ADVICE", findings)
    with pytest.raises(ValueError, match=f"class images .*; ADVICE, or move .*: {place}"):
        findings.raise_errors("", "")


@pytest.mark.parametrize("folders", [("reg/1_woman",), ("reg", "img"), ("reg images/a", "1_a"), ("regal/1_a", "1_b")])
def test_other_folders_are_not_class_images(folders: tuple[str, ...]) -> None:
    findings = Findings()
    note_class_images([f"{folder}/1.png" for folder in folders], "ADVICE", findings)
    assert not findings.has_errors
