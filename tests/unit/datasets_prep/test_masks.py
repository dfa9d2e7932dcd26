import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_prep.config import PrepConfig, SplitConfig, WriteConfig
from datasets_prep.pipeline import prepare
from finetune.config.mask import MaskConfig
from finetune.data.manifest import read_manifest
from tests.support.images import drawn, encoded, write
from tests.support.prepared import kept_and_left_out, rows_of

SIZE = (96, 80)


def mask_of(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A white box at another place for each seed."""
    levels = np.zeros(size[::-1], np.uint8)
    levels[8 + seed : 40 + seed, 10:60] = 255
    return encoded(Image.fromarray(levels))


IMAGES = [encoded(drawn(seed, SIZE)) for seed in range(8)]
PAIR: dict[str, bytes | str] = {"a.png": IMAGES[0], "b.png": IMAGES[1], "a-masklabel.png": mask_of(0)}


def prepared(tmp_path: Path, files: dict[str, bytes | str], **options: object) -> tuple[dict, dict, PrepConfig, str]:
    config = PrepConfig((write(tmp_path / "raw", files),), tmp_path / "prepared", workers=1, trigger="ink")
    config = replace(config, **options)
    outcome = prepare(config)
    kept, left_out = kept_and_left_out(config.output)
    masks = {row["mask"] for row in kept.values() if "mask" in row}
    assert sorted([*kept, *left_out, *masks]) == sorted(files), "every file is listed once"
    return kept, left_out, config, "\n".join(outcome.notices)


def test_masks_follow_their_images_and_recipes_find_them(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"p0.png": IMAGES[0], "p0-masklabel.png": mask_of(0)}
    files |= {
        "d/p1.png": IMAGES[1],
        "d/p1_mask.png": mask_of(1),
        "images/p2.png": IMAGES[2],
        "masks/p2.png": mask_of(2),
    }
    files |= {"p3.png": IMAGES[3], "man with-mask.png": IMAGES[4]}
    kept, left_out, config, notices = prepared(tmp_path, files)
    masks = {"p0.png": "p0-masklabel.png", "d/p1.png": "d/p1_mask.png", "images/p2.png": "masks/p2.png"}
    masks |= {"p3.png": None, "man with-mask.png": None}
    assert {name: row.get("mask") for name, row in kept.items()} == masks
    assert left_out == {} and "(3): d/p1_mask.png, masks/p2.png, p0-masklabel.png" in notices
    manifest = read_manifest(str(config.output), mask=MaskConfig("file"))
    assert manifest.masks is not None
    found = {record.file_name: record.mask for record in manifest.records}
    for source, row in kept.items():
        mask = found[row["file_name"]]
        assert (mask is None) == ("mask" not in row)
        if mask is not None:
            assert manifest.masks.read(mask.file_name) == files[row["mask"]], source


def test_datasets_loads_images_beside_masks_and_a_rerun_follows_a_changed_mask(tmp_path: Path) -> None:
    from datasets import load_dataset

    kept, _, config, _ = prepared(tmp_path, PAIR)
    rows = load_dataset("imagefolder", data_dir=str(config.output), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(rows["source"]) == ["a.png", "b.png"]
    assert sorted(map(str, rows["mask"])) == ["None", "a-masklabel.png"]
    image = config.output / kept["a.png"]["file_name"]
    mask = image.with_name(f"{image.stem}-masklabel.png")
    assert mask.read_bytes() == PAIR["a-masklabel.png"]
    prepared(tmp_path, PAIR | {"a-masklabel.png": mask_of(5)})
    assert mask.read_bytes() == mask_of(5)
    (tmp_path / "raw" / "a-masklabel.png").unlink()
    prepared(tmp_path, {name: PAIR[name] for name in ("a.png", "b.png")})
    assert not mask.exists()


def test_masks_are_a_column_of_tables(tmp_path: Path) -> None:
    from datasets import load_dataset

    kept, _, config, _ = prepared(tmp_path, PAIR, write=WriteConfig("parquet"))
    manifest = read_manifest(str(config.output), mask=MaskConfig("file"))
    masks = {record.file_name: record.mask for record in manifest.records}
    mask = masks[kept["a.png"]["file_name"]]
    assert manifest.masks is not None and mask is not None and masks[kept["b.png"]["file_name"]] is None
    assert manifest.masks.read(mask.file_name) == PAIR["a-masklabel.png"]
    assert mask.sha256 == hashlib.sha256(mask_of(0)).hexdigest()
    rows = load_dataset(str(config.output), cache_dir=str(tmp_path / "cache"))["train"]
    found = {row["source"]: (row["mask"], row["mask_image"] and row["mask_image"].size) for row in rows}
    assert found == {"a.png": ("a-masklabel.png", SIZE), "b.png": (None, None)}


def test_masks_of_prepared_tables_stay_with_their_images_when_they_are_prepared_again(tmp_path: Path) -> None:
    def masks(folder: Path) -> dict[str, str | None]:
        records = read_manifest(str(folder), mask=MaskConfig("file")).records
        return {record.sha256: record.mask and record.mask.sha256 for record in records}

    _, _, config, _ = prepared(tmp_path, PAIR, write=WriteConfig("parquet"))
    for form in ("parquet", "folder"):
        again = PrepConfig((str(config.output),), tmp_path / form, workers=1, write=WriteConfig(form))
        outcome = prepare(again)
        assert outcome.num_pictures == 2 and outcome.rejected == {}
        assert masks(again.output) == masks(config.output)
    assert sorted("mask" in row for row in rows_of(tmp_path / "folder")) == [False, True]


def test_further_columns_of_images_are_named(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(), "control": Image(), "text": Value("string")})
    rows = Dataset.from_dict({"image": [IMAGES[0]], "control": [IMAGES[1]], "text": ["one"]}, features)
    (tmp_path / "table").mkdir()
    rows.to_parquet(str(tmp_path / "table" / "x.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    for name in ("table", "saved"):
        outcome = prepare(PrepConfig((str(tmp_path / name),), tmp_path / f"{name}_out", workers=1))
        assert "further columns of images" in "\n".join(outcome.notices) and "(control)" in "\n".join(outcome.notices)


def test_masks_without_a_kept_image_are_left_out_with_a_reason(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.png": IMAGES[0], "copy/a.png": IMAGES[0], "copy/a-masklabel.png": mask_of(0)}
    files |= {"broken.png": IMAGES[1][:-40], "broken-masklabel.png": mask_of(1), "broken_mask.png": mask_of(2)}
    files |= {"orphan-masklabel.png": mask_of(3), "small.png": IMAGES[2], "small-masklabel.png": mask_of(4, (48, 40))}
    files |= {"blank.png": encoded(Image.new("RGB", SIZE, "white")), "blank-masklabel.png": mask_of(5)}
    files |= {"black.png": IMAGES[3], "black-masklabel.png": encoded(Image.new("L", SIZE))}
    kept, left_out, _, notices = prepared(tmp_path, files)
    masks = {name: row.get("mask") for name, row in kept.items()}
    assert masks == {"a.png": "copy/a-masklabel.png", "small.png": None, "black.png": None}
    details = {name: row["detail"] for name, row in left_out.items() if row["reason"] == "unused_mask"}
    assert details == {
        **dict.fromkeys(
            ("broken-masklabel.png", "broken_mask.png", "orphan-masklabel.png"), "there is no usable image of its name"
        ),
        "small-masklabel.png": "48x40 pixels, expected the 96x80 of small.png",
        "blank-masklabel.png": "its image blank.png is left out",
        "black-masklabel.png": "black everywhere, with which nothing of the image would be trained on",
    }
    assert "masks that cannot be used (5)" in notices


def test_other_names_of_masks_are_known_where_the_pixels_are_a_masks(tmp_path: Path) -> None:
    masks = ["amask.png", "mask_b.png", "c_mask1.png", "d.png.mask.png", "e Mask.png", "f_seg.png", "g_matte.png"]
    masks += ["h-alpha.webp"]
    images: dict[str, bytes | str] = {f"{letter}.png": data for letter, data in zip("abcdefgh", IMAGES, strict=True)}
    kept, left_out, _, _ = prepared(tmp_path / "mask", images | {name: mask_of(n) for n, name in enumerate(masks)})
    assert [kept[name]["mask"] for name in images] == masks and left_out == {}
    others = {name: encoded(drawn(number + 8, SIZE)) for number, name in enumerate(masks)}
    kept, left_out, _, notices = prepared(tmp_path / "image", images | others)
    assert len(kept) == 16 and left_out == {} and "stay images (8): " in notices


@pytest.mark.parametrize("folder", ["mask_labels", "Segmentation", "mattes"])
def test_other_folders_of_masks_are_known(tmp_path: Path, folder: str) -> None:
    kept, left_out, _, _ = prepared(tmp_path, {"images/a.png": IMAGES[0], f"{folder}/a.png": mask_of(0)})
    assert [row.get("mask") for row in kept.values()] == [f"{folder}/a.png"] and left_out == {}


def test_images_that_only_have_names_of_masks_stay_images(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"face.png": IMAGES[0], "face_mask.png": IMAGES[1], "hats/1.png": IMAGES[2]}
    files |= {"masks/1.png": IMAGES[3], "masks/2.png": mask_of(6)}
    kept, left_out, _, notices = prepared(tmp_path, files)
    assert len(kept) == 5 and left_out == {}
    assert "stay images (2): face_mask.png, masks/1.png" in notices


@pytest.mark.parametrize(
    "options", [{"split": SplitConfig(share=0.4, group="picture")}, {"write": WriteConfig(reencode="png")}]
)
def test_masks_follow_to_sides_and_saved_images(tmp_path: Path, options: dict[str, object]) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": data for n, data in enumerate(IMAGES)}
    files |= {f"{n}-masklabel.png": mask_of(n) for n in range(len(IMAGES))}
    kept, _, config, _ = prepared(tmp_path, files, **options)
    manifest = read_manifest(str(config.output), mask=MaskConfig("file"))
    assert len(kept) == 8 and all(record.mask is not None for record in manifest.records)


def test_condition_images_are_left_out_with_a_reason(tmp_path: Path) -> None:
    kept, left_out, _, notices = prepared(tmp_path, PAIR | {"a-condlabel.png": IMAGES[2], "b-condlabel.png": IMAGES[3]})
    assert sorted(kept) == ["a.png", "b.png"] and kept["a.png"]["mask"] == "a-masklabel.png"
    assert {name: "condition image" in row["detail"] for name, row in left_out.items()} == {
        "a-condlabel.png": True,
        "b-condlabel.png": True,
    }
    assert "(2): a-condlabel.png, b-condlabel.png" in notices
