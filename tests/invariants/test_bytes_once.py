import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from tests.support.file_counts import CountFiles
from tests.support.runs import Options, start

NUM = 14
OWN: Options = {
    "data.crop": "random",
    "data.num_crops": 2,
    "data.flip": True,
    "validation.fraction": 0.2,
    "train.steps": 1,
}


def listed(pictures: Path, folder: Path) -> Path:
    shutil.copytree(pictures, folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows[::2]:
        path = folder / row["file_name"]
        row["file_name"] = path.with_suffix(".jpg").name
        Image.open(path).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def beside_texts(pictures: Path, folder: Path) -> Path:
    for number, row in enumerate(rows_of(listed(pictures, folder / "all"))):
        path = folder / "all" / row["file_name"]
        (folder / str(number % 2)).mkdir(exist_ok=True)
        path.rename(folder / str(number % 2) / path.name)
        (folder / str(number % 2) / path.name).with_suffix(".txt").write_text(row["text"])
    shutil.rmtree(folder / "all")
    return folder


def prepared(pictures: Path, folder: Path) -> Path:
    """The images in a table as preparation writes it."""
    rows = []
    for row in rows_of(listed(pictures, folder / "all")):
        data = (folder / "all" / row["file_name"]).read_bytes()
        width, height = Image.open(folder / "all" / row["file_name"]).size
        row |= {"image": {"bytes": data, "path": row["file_name"]}, "source": row.pop("file_name")}
        rows.append(row | {"width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest()})
    (folder / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train-00000.parquet", row_group_size=4)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def images_of(folder: Path) -> dict[bytes, str]:
    return {path.read_bytes(): path.name for path in folder.rglob("*.*g")}


SHOWN = 8
"""Training images on the report's page, which are read once more when a run ends."""
ONCE, FIRST = {1: NUM}, {1: NUM - SHOWN, 2: SHOWN}
PAGE_ALONE = {0: NUM - SHOWN, 1: SHOWN}
AGAIN = {"opened": FIRST, "hashed": ONCE, "decoded": PAGE_ALONE}
CASES = {
    "texts": (beside_texts, AGAIN),
    "prepared": (prepared, {"opened": PAGE_ALONE, "hashed": {0: NUM}, "decoded": PAGE_ALONE}),
    "inpainting": (listed, AGAIN),
}


@pytest.mark.parametrize(
    "case", ["texts", *(pytest.param(case, marks=pytest.mark.slow) for case in ("prepared", "inpainting"))]
)
def test_an_image_is_read_hashed_and_decoded_once(
    case: str, tiny_run: Options, pictures: Path, tiny_inpainting_model: Path, tmp_path: Path
) -> None:
    make, again = CASES[case]
    folder = make(pictures, tmp_path / "images")
    count = CountFiles(images_of(folder), tmp_path / "counts")
    options = tiny_run | OWN | {"data.folder": folder, "cache.folder": tmp_path / "cache"}
    if case == "inpainting":
        options |= {"model.source": tiny_inpainting_model, "inpaint.num_masks": 2}
    for number, expected in enumerate(({"opened": FIRST, "hashed": ONCE, "decoded": FIRST}, again)):
        out = {"output.folder": tmp_path / f"out{number}"}
        ended = start("lora", options | out, tmp_path / "log", prepare=count).wait()
        assert ended.exit_code == 0, ended.output
        assert count.counts() == expected
