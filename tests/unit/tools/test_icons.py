"""The pretraining dataset of icons: captions, copies in colours, held-out drawings."""

import io
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw

from finetune.data.manifest import read_manifest
from tools.base_model import ATTRIBUTION
from tools.icons import Icon, IconsConfig, read_icons, write

STYLES = {
    "fine": "line icon",
    "bold": "bold line icon",
    "flat": "flat emoji",
    "round": "solid icon",
    "thin": "thin line icon",
}
CONCEPTS = [f"thing {number}" for number in range(40)]


def icon_bytes(style: str) -> bytes:
    image = Image.new("RGB", (64, 64), "white")
    fill = "red" if style == "flat emoji" else "black"
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), outline=fill, fill=fill if "line" not in style else None)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "icons"
    folder.mkdir()
    rows = [
        {"image": {"bytes": icon_bytes(style), "path": "x.png"}, "concept": concept, "style": style, "set": name}
        for concept in CONCEPTS
        for name, style in STYLES.items()
    ]
    rows += [{**rows[0], "concept": "rare thing"}, {**rows[0], "style": "light line icon"}]  # of the set fine as well
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000.parquet")
    return folder


def table(folder: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(folder / "data" / "icons.parquet").to_pylist()


def test_pairs_of_concept_and_set_are_held_out_with_all_their_variants(source: Path) -> None:
    icons = read_icons(source)
    apart = {(icon.concept, icon.set) for icon in icons if icon.is_held_out}
    assert 0 < len(apart) < len(icons) / 5
    one, other = (Icon(source, 0, "bell", style, "fine") for style in ("line icon", "light line icon"))
    assert one.is_held_out == other.is_held_out


def test_held_out_drawings_validate_or_are_left_out(source: Path, tmp_path: Path) -> None:
    write(IconsConfig(source, tmp_path / "set", num_validation=2))
    apart = {f"{icon.concept}, {icon.style}" for icon in read_icons(source) if icon.is_held_out}
    rows = table(tmp_path / "set")
    assert apart.isdisjoint(row["text"] for row in rows if row["split"] == "train")
    validation = [row["text"] for row in rows if row["split"] == "validation"]
    assert len(validation) == 2 and set(validation) <= apart
    assert not any("rare thing" in row["text"] for row in rows)


def test_captions_name_both_in_several_orders_and_each_alone(source: Path, tmp_path: Path) -> None:
    write(IconsConfig(source, tmp_path / "set", coloured=0))
    for row in table(tmp_path / "set"):
        concept, style = row["text"].split(", ")
        if row["split"] == "validation":
            assert row["captions_alt"] == []
            continue
        orders, (alone, unknown, bare) = row["captions_alt"][:4], row["captions_alt"][4:]
        assert len(set(orders)) == 4 and all(concept in text and style in text for text in orders)
        assert (alone, bare) == (concept, style)
        assert unknown.startswith(f"{concept}, ") and style not in unknown


def test_copies_in_colours_are_named_by_them(source: Path, tmp_path: Path) -> None:
    plain, all_coloured = tmp_path / "plain", tmp_path / "coloured"
    write(IconsConfig(source, plain, coloured=0))
    write(IconsConfig(source, all_coloured, coloured=1))
    names = {row["text"] for row in table(plain)}
    copies = [row for row in table(all_coloured) if row["text"] not in names]
    assert len(copies) == sum(row["split"] == "train" for row in table(plain))
    for row in copies:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert len(image.getcolors() or []) >= 2


def test_the_set_is_a_function_of_its_source_and_a_recipe_reads_it(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.iterdir()}
    count = write(IconsConfig(source, tmp_path / "one"))
    assert write(IconsConfig(source, tmp_path / "two")) == count
    assert table(tmp_path / "one") == table(tmp_path / "two")
    manifest = read_manifest(str(tmp_path / "one"))
    assert len(manifest.records) == count and manifest.warnings == ()
    assert before == {path: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(ValueError, match="exists"):
        write(IconsConfig(source, tmp_path / "one"))


def test_the_set_for_an_autoencoder_has_no_captions_and_all_concepts(source: Path, tmp_path: Path) -> None:
    write(IconsConfig(source, tmp_path / "looks", for_vae=True))
    rows = [row for row in table(tmp_path / "looks") if row["split"] == "train"]
    assert {row["text"] for row in rows} == {""}
    assert any("rare thing" in row["source"] for row in rows)
    papers = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").getpixel((0, 0)) for row in rows]
    assert len(set(papers)) > 5  # white, and others


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no Parquet files"):
        write(IconsConfig(tmp_path, tmp_path / "set"))


def test_concepts_in_too_few_sets_are_refused_before_a_folder_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 5 and 6, but no concept"):
        write(IconsConfig(source, tmp_path / "set", least_sets=6))
    assert not (tmp_path / "set").exists()


ICONS = Path(__file__).parents[3].parent / "shared" / "data" / "icons"


def test_the_attribution_names_every_set_with_its_licence_and_author() -> None:
    lines = ATTRIBUTION.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    assert len(rows) == 30 and all(len(row) == 4 and all(row) for row in rows)
    assert {row[3] for row in rows} == {"MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0"}
    if ICONS.exists():
        tables = [pyarrow.parquet.read_table(path, columns=["set", "license"]) for path in ICONS.glob("*.parquet")]
        assert {(row["set"], row["license"]) for table in tables for row in table.to_pylist()} == {
            (row[0], row[3]) for row in rows
        }
