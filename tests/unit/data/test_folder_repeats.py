import pytest

from finetune.data.folder_repeats import FolderRepeats, folder_repeats
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
