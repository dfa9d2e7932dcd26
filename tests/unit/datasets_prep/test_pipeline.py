import fcntl
import os
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_prep.config import (
    CaptionsConfig,
    DedupConfig,
    LimitsConfig,
    LintConfig,
    PrepConfig,
    QualityConfig,
    ScoresConfig,
    SplitConfig,
    WriteConfig,
)
from datasets_prep.decisions import Decision, append_decision
from datasets_prep.duplicates import appearances
from datasets_prep.inputs import shard_of
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.measure.image import SCORES
from datasets_prep.measure.store import Parts
from datasets_prep.output.folder import read_state
from datasets_prep.pipeline import prepare
from datasets_prep.records import Duplicate
from datasets_prep.report import thumbnails
from datasets_prep.report.thumbnails import small_image
from datasets_prep.selection import Selection
from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import dump
from finetune.data.manifest import read_manifest
from finetune.similarity.agreement import look_at
from tests.support.images import drawn, encoded, listing, write
from tests.support.prepared import kept_and_left_out, rows_of

RED, BLUE, GREEN = (encoded(drawn(seed)) for seed in range(3))
FILES: dict[str, bytes | str] = {"a_red_thing.png": RED, "copies/b.png": RED, "copies/b.txt": "a red image"}
FILES |= {"copies/c.png": RED, "copies/c.txt": "ein Rot\na red image", "test/blue_2.png": BLUE}
FILES |= {"test/blue_2.jpg": BLUE[:-30], "empty.png": "", "readme.md": "# notes"}


@pytest.fixture
def config(tmp_path: Path) -> PrepConfig:
    return PrepConfig((write(tmp_path / "raw", FILES),), tmp_path / "prepared", workers=1)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but those that a rerun works with."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".prep" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_file_ends_once_in_one_list_and_the_source_stays(config: PrepConfig) -> None:
    source = Path(config.source[0])
    before = contents(source)
    outcome = prepare(config)
    kept, left_out = rows_of(config.output), rows_of(config.output, "rejected.jsonl")
    assert sorted(row["source"] for row in kept + left_out) == sorted(name for name in FILES if ".txt" not in name)
    reasons = {row["source"]: row["reason"] for row in left_out}
    duplicates = dict.fromkeys(("a_red_thing.png", "copies/c.png"), "exact_duplicate")
    others = {"empty.png": "empty_file", "readme.md": "not_an_image", "test/blue_2.jpg": "truncated"}
    assert reasons == duplicates | others
    assert (outcome.num_pictures, outcome.rejected["exact_duplicate"], outcome.is_new) == (2, 2, True)
    assert contents(source) == before
    assert [path.name for path in config.output.parent.iterdir() if path.name.startswith(".")] == []


def test_copies_name_their_keeper_and_leave_it_their_captions(config: PrepConfig) -> None:
    prepare(config)
    keeper = rows_of(config.output)[0]
    assert (keeper["source"], keeper["text"], keeper["captions_alt"]) == ("copies/b.png", "a red image", ["ein Rot"])
    assert (keeper["width"], keeper["height"], keeper["caption_from"]) == (96, 80, "source")
    assert keeper["caption_sources"] == ["copies/b.png", "copies/c.png"]
    assert "caption_sources" not in rows_of(config.output)[1]
    assert (config.output / keeper["file_name"]).read_bytes() == RED
    first = rows_of(config.output, "rejected.jsonl")[0]
    assert (first["duplicate_of"], first["score"]) == ("copies/b.png", 1.0)


def test_a_caption_that_is_taken_over_names_the_duplicate_that_brought_it(config: PrepConfig) -> None:
    small = encoded(drawn(1, (84, 70)), "JPEG", quality=90)
    write(Path(config.source[0]), {"small_copy.jpg": small, "small_copy.txt": "a calm sea"})
    prepare(replace(config, dedup=DedupConfig(near="drop"), trigger="ink style"))
    row = next(row for row in rows_of(config.output) if row["source"] == "test/blue_2.png")
    assert (row["text"], row["caption_from"]) == ("a calm sea, ink style", "source")
    assert row["caption_sources"] == ["small_copy.jpg"]
    assert "its caption was taken over" in (config.output / "report.html").read_text()


def test_the_same_pixels_in_another_file_are_a_copy(config: PrepConfig) -> None:
    source = Path(config.source[0])
    write(source, {"test/other.webp": encoded(drawn(1), "WEBP", lossless=True)})
    write(source, {"test/nearly.png": encoded(Image.eval(drawn(1), lambda level: min(255, level + 1)))})
    prepare(config)
    by_reason = {row["reason"]: row for row in rows_of(config.output, "rejected.jsonl")}
    pair = {by_reason["pixel_duplicate"]["source"], by_reason["pixel_duplicate"]["duplicate_of"]}
    assert pair == {"test/blue_2.png", "test/other.webp"}
    kept = {row["source"] for row in rows_of(config.output)}
    assert "test/nearly.png" in kept  # almost the same; of few images it is only reported


def test_training_reads_the_result(config: PrepConfig) -> None:
    prepare(replace(config, trigger="ink style"))
    manifest = read_manifest(str(config.output))
    captions = {record.captions for record in manifest.records}
    assert captions == {("a red image, ink style", "ein Rot, ink style"), ("blue, ink style",)}
    assert manifest.warnings == ()


def test_a_caption_with_syntax_of_other_programs_is_named_with_each_kind_once(config: PrepConfig) -> None:
    write(Path(config.source[0]), {"copies/b.txt": "a cat <lora:ink:0.8> --w 32"})
    warnings = [line for line in prepare(config).notices if "interpret" in line]
    assert len(warnings) == 2 and all("(1): copies/b.png" in line for line in warnings)
    assert any("<lora:ink:0.8>" in line for line in warnings) and any("--w" in line for line in warnings)


def test_the_bytes_do_not_depend_on_the_order_of_listing_nor_the_workers(
    config: PrepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the report names the source as it was given
    prepare(replace(config, source=("raw",)))
    write(tmp_path / "other" / "raw", dict(reversed(FILES.items())))
    monkeypatch.chdir(tmp_path / "other")
    for workers in (2, 16):
        other = replace(config, source=("raw",), output=tmp_path / f"again_{workers}", workers=workers)
        prepare(other)
        assert contents(config.output) == contents(other.output), workers


def test_the_same_again_does_nothing_and_a_change_makes_it_again(config: PrepConfig) -> None:
    source = Path(config.source[0])
    first = prepare(config)
    written = os.stat(config.output / "report.html")
    again = prepare(config)
    assert (again.is_new, again.num_pictures, again.rejected) == (False, first.num_pictures, first.rejected)
    assert os.stat(config.output / "report.html").st_mtime_ns == written.st_mtime_ns
    (source / "new_one.png").write_bytes(GREEN)
    assert prepare(config).num_pictures == 3
    (source / "copies" / "b.txt").write_text("changed")
    assert prepare(config).is_new and rows_of(config.output)[0]["text"] == "changed"
    assert prepare(replace(config, trigger="ink")).is_new
    next((config.output / "images").iterdir()).unlink()
    assert prepare(replace(config, trigger="ink")).is_new
    (source / "new_one.png").unlink()
    assert prepare(config).num_pictures == 2
    assert len(os.listdir(config.output / "images")) == 2


def test_only_what_is_new_is_measured_looked_at_and_drawn(config: PrepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    prepare(config, lambda *what: seen.append(what))
    assert [total for what, _, total in seen if what == "measuring"] == [7] * 7
    (Path(config.source[0]) / "new_one.png").write_bytes(GREEN)
    seen.clear()
    made: list[int] = []
    monkeypatch.setattr(thumbnails, "small_image", lambda image: made.append(1) or small_image(image))
    monkeypatch.setattr(appearances, "look_at", lambda *given, **more: made.append(2) or look_at(*given, **more))
    prepare(config, lambda *what: seen.append(what))
    assert [total for what, _, total in seen if what == "measuring"] == [1]
    assert sorted(made) == [1, 2]


def test_parts_of_a_job_array_measure_everything_once(config: PrepConfig, tmp_path: Path) -> None:
    prepare(config)
    parted = replace(config, output=tmp_path / "parted")
    done = [prepare(replace(parted, shard=f"{part}/3")).num_pictures for part in (1, 2, 3)]
    assert sum(done) == 7 and not (parted.output / "metadata.jsonl").exists()
    seen: list[str] = []
    prepare(parted, lambda what, *_: seen.append(what))
    assert "measuring" not in seen
    assert contents(parted.output) == contents(config.output)


@pytest.mark.parametrize("damaged", ["", "[]", "[" * 100_000])
def test_a_damaged_state_counts_as_none(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "state.json").write_text(damaged)
    assert read_state(tmp_path) is None


def test_each_file_is_in_one_part() -> None:
    parts = [shard_of(np.arange(101), f"{part}/4") for part in (1, 2, 3, 4)]
    assert np.concatenate(parts).tolist() == list(range(101))
    assert {len(part) for part in parts} == {25, 26}


def test_decisions_of_a_user_are_followed_and_last(config: PrepConfig) -> None:
    write(Path(config.source[0]), {"flat.png": encoded(Image.new("RGB", (80, 80), "navy"))})
    prepare(config)
    kept, left_out = kept_and_left_out(config.output)
    assert left_out["flat.png"]["reason"] == "low_information"
    decided = [
        Decision(kept["copies/b.png"]["sha256"], "", "drop"),
        Decision(kept["test/blue_2.png"]["sha256"], "", "caption", "a calm sea"),
        Decision(left_out["flat.png"]["sha256"], "", "keep"),
    ]
    for decision in decided:
        append_decision(config.output / "decisions.jsonl", decision)
    for _ in range(2):
        prepare(replace(config, trigger="ink style"))
        kept, left_out = kept_and_left_out(config.output)
        assert set(kept) == {"flat.png", "test/blue_2.png"}
        assert kept["test/blue_2.png"]["text"] == "a calm sea, ink style"
        dropped = [name for name, row in left_out.items() if row["reason"] == "dropped_by_user"]
        assert dropped == ["a_red_thing.png", "copies/b.png", "copies/c.png"]
        (Path(config.source[0]) / "more.md").write_text("so it is made again")


def test_flags_become_reasons_where_the_options_say_so(config: PrepConfig) -> None:
    write(Path(config.source[0]), {"large.png": encoded(drawn(5, (300, 300)))})
    outcome = prepare(config)
    flagged = {row["source"]: row.get("flags", []) for row in rows_of(config.output)}
    assert "small" in flagged["test/blue_2.png"] and "small" not in flagged["large.png"]
    assert outcome.rejected.get("flagged", 0) == 0
    prepare(replace(config, quality=QualityConfig(reject=("small",))))
    assert [row["source"] for row in rows_of(config.output)] == ["large.png"]


@pytest.mark.parametrize("near", ["drop", "report"])
def test_near_duplicates_are_dropped_or_named(config: PrepConfig, near: str) -> None:
    write(Path(config.source[0]), {"small_copy.jpg": encoded(drawn(1, (84, 70)), "JPEG", quality=90)})
    prepare(replace(config, dedup=DedupConfig(near=near)))
    listing = "rejected.jsonl" if near == "drop" else "metadata.jsonl"
    row = next(row for row in rows_of(config.output, listing) if row["source"] == "small_copy.jpg")
    assert row["duplicate_of" if near == "drop" else "near_duplicate_of"] == "test/blue_2.png"
    assert 0 < row["score" if near == "drop" else "near_duplicate_score"] <= 1


def test_an_image_that_takes_too_much_memory_costs_only_itself(config: PrepConfig) -> None:
    huge = encoded(drawn(7).resize((9000, 9000), Image.Resampling.NEAREST), compress_level=1)
    write(Path(config.source[0]), {"huge.png": huge})
    outcome = prepare(replace(config, limits=LimitsConfig(memory_gb=0.2)))
    reasons = {row["source"]: row["reason"] for row in rows_of(config.output, "rejected.jsonl")}
    assert reasons["huge.png"] == "out_of_memory" and outcome.num_pictures == 2


def test_captions_are_filled_replaced_or_added(config: PrepConfig) -> None:
    texts = {}
    for mode in ("fill", "replace", "add"):
        prepare(replace(config, captions=CaptionsConfig(mode=mode, template="a photo of {caption}")))
        texts[mode] = {row["source"]: [row["text"], *row.get("captions_alt", [])] for row in rows_of(config.output)}
    assert texts["fill"]["copies/b.png"] == ["a red image", "ein Rot"]
    assert texts["replace"]["copies/b.png"] == ["a photo of copies"]
    assert texts["add"]["copies/b.png"] == ["a red image", "ein Rot", "a photo of copies"]
    assert {texts[mode]["test/blue_2.png"][0] for mode in texts} == {"a photo of blue"}


def test_shards_hold_the_same_as_a_folder(config: PrepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    monkeypatch.setattr("datasets_prep.output.shards.ROW_GROUP", 2)
    more = {f"more/{seed}.png": encoded(drawn(seed + 10, (64 + 8 * seed, 80))) for seed in range(8)}
    write(Path(config.source[0]), more)
    split, facts = SplitConfig(share=0.3, group="picture"), attrgetter("sha256", "captions", "width", "height", "split")
    prepare(replace(config, split=split))
    folder = set(map(facts, read_manifest(str(config.output)).records))
    prepare(replace(config, split=split, write=WriteConfig("parquet", shard_mb=0.02)))
    assert not (config.output / "images").exists()
    assert len(list((config.output / "data").glob("*.parquet"))) > 2
    assert set(map(facts, read_manifest(str(config.output)).records)) == folder
    loaded = load_dataset(str(config.output), cache_dir=str(config.output.parent / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 7, "validation": 3}
    assert loaded["train"][0]["image"].mode in ("RGB", "P")
    prepare(replace(config, split=split))
    assert not (config.output / "data").exists() and not (config.output / "images").exists()
    loaded = load_dataset(str(config.output), cache_dir=str(config.output.parent / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 7, "validation": 3}
    assert {row["split"] for row in loaded["validation"]} == {"validation"} and loaded["train"][0]["text"]
    prepare(config)
    assert len(os.listdir(config.output / "images")) == 10 and not (config.output / "validation").exists()


def test_text_files_and_lossless_copies_are_written_on_request(config: PrepConfig) -> None:
    prepare(replace(config, write=WriteConfig(txt=True, reencode="webp")))
    names = sorted(os.listdir(config.output / "images"))
    assert {os.path.splitext(name)[1] for name in names} == {".webp", ".txt"} and len(names) == 4
    row = rows_of(config.output)[0]
    with Image.open(config.output / row["file_name"]) as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), np.asarray(drawn(0)))
    text = (config.output / row["file_name"]).with_suffix(".txt").read_text()
    assert text.splitlines() == ["a red image", "ein Rot"]


def test_saving_again_never_keeps_a_file_of_other_options(config: PrepConfig) -> None:
    clear = drawn(8).convert("RGBA")
    clear.putalpha(100)
    write(Path(config.source[0]), {"clear.png": encoded(clear)})
    modes = []
    for background, reencode in (("white", "no"), ("white", "png"), ("black", "png")):
        prepare(replace(config, background=background, write=WriteConfig(reencode=reencode)))
        row = next(row for row in rows_of(config.output) if row["source"] == "clear.png")
        with Image.open(config.output / row["file_name"]) as saved:
            modes.append((saved.mode, int(np.asarray(saved.convert("RGB")).mean() > 150)))
        assert len(os.listdir(config.output / "images")) == 3
    assert modes[0][0] == "RGBA" and modes[1:] == [("RGB", 1), ("RGB", 0)]


def test_files_of_a_user_beside_shards_stay(config: PrepConfig) -> None:
    write(config.output / "data", {"mine.csv": "mine"})
    (config.output / ".prep").mkdir()
    for form in ("parquet", "folder", "parquet"):
        prepare(replace(config, write=WriteConfig(form)))
        assert (config.output / "data" / "mine.csv").read_text() == "mine"
    assert sorted(os.listdir(config.output / "data")) == ["mine.csv", "train-00000.parquet"]


def test_a_card_that_a_user_wrote_stays_and_an_own_one_is_brought_up_to_date(config: PrepConfig) -> None:
    prepare(config)
    first = (config.output / "README.md").read_text()
    (Path(config.source[0]) / "new_one.png").write_bytes(GREEN)
    prepare(config)
    assert (config.output / "README.md").read_text() != first
    (config.output / "README.md").write_text("# My set")
    prepare(replace(config, trigger="ink"))
    assert (config.output / "README.md").read_text() == "# My set"


def test_the_split_of_the_source_is_followed(config: PrepConfig) -> None:
    names = [f"more/{seed}.png" for seed in range(8)]
    rows = [{"file_name": name, "text": "words"} for name in names]
    rows[3]["split"] = "validation"
    files: dict[str, bytes | str] = {name: encoded(drawn(seed + 20)) for seed, name in enumerate(names)}
    source = write(config.output.parent / "listed", files | {"metadata.jsonl": listing(*rows)})
    for share in (0.0, 0.25):
        prepare(replace(config, source=(source,), split=SplitConfig(share, "picture"), write=WriteConfig("parquet")))
        sides = {row["source"]: row.get("split") for row in rows_of(config.output)}
        assert sides["more/3.png"] == "validation"
        assert os.path.exists(config.output / "data" / "validation-00000.parquet")
        if share == 0:
            assert set(sides.values()) == {"validation", None}


def test_damaged_measurements_are_made_again(config: PrepConfig) -> None:
    prepare(config)
    expected = contents(config.output)
    for part in (config.output / ".prep" / "measured").iterdir():
        part.write_bytes(b"nonsense")
    (config.output / "metadata.jsonl").unlink()
    assert "damaged files of measurements" in "\n".join(prepare(config).notices)
    assert contents(config.output)["metadata.jsonl"] == expected["metadata.jsonl"]


def test_copies_of_a_keeper_that_is_left_out_later_share_its_reason() -> None:
    selection = Selection(pictures_of("a", "b"), np.ones(2, bool), np.zeros(2, bool))
    selection.reject_duplicates("pixels", {1: Duplicate(0, "pixel_duplicate", 1.0, "same pixels")}, "same")
    selection.reject("score", {0: ("low_score", "nsfw 0.9, expected at most 0.5", 0.9)}, "beyond")
    by_source = {line.source: line for line in selection.rejections()}
    assert by_source["b"].reason == "low_score" and by_source["b"].duplicate_of is None
    assert "as a, which it repeats" in by_source["b"].detail
    assert selection.figures[-1] == ("score", 1, 0, "1 beyond")


def pictures_of(*sources: str) -> MeasuredImages:
    """Images of which nothing but the names matters."""
    zeros, ones = np.zeros(len(sources), np.int32), np.ones(len(sources), np.int32)
    hashes, scores = np.zeros((len(sources), 32), np.uint8), np.zeros((len(sources), len(SCORES)), np.float32)
    parts = Parts([], np.zeros(1, int))
    return MeasuredImages(sources, hashes, hashes, ones, ones, ones, scores, [".png"], zeros, {}, {}, parts, zeros)


def test_what_this_command_did_not_write_is_not_replaced(config: PrepConfig) -> None:
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not written by this command"):
        prepare(config)
    assert contents(config.output) == {"thesis.txt": b"mine"}


def test_a_listing_that_was_edited_is_not_replaced_and_other_files_stay(config: PrepConfig) -> None:
    prepare(config)
    (config.output / "notes.txt").write_text("mine")
    (config.output / "images" / "mine.txt").write_text("mine")
    prepare(replace(config, trigger="ink"))
    assert (config.output / "notes.txt").read_text() == (config.output / "images" / "mine.txt").read_text() == "mine"
    with (config.output / "metadata.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"metadata\.jsonl"):
        prepare(config)


def test_an_output_that_a_link_leads_to_is_not_an_input(config: PrepConfig) -> None:
    (Path(config.source[0]) / "link").symlink_to(config.output.parent)
    config = replace(config, follow_links=True)
    assert prepare(config).num_pictures == 2 and not prepare(config).is_new


def test_two_at_once_are_refused(config: PrepConfig) -> None:
    own = config.output / ".prep"
    own.mkdir(parents=True)
    lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another preparation"):
        prepare(config)
    os.close(lock)
    assert prepare(config).is_new


def test_a_source_without_images_is_refused_with_the_reasons(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", {"a.png": "", "b.jpg": "text"})
    with pytest.raises(ValueError, match=r"empty_file 1, not_an_image 1"):
        prepare(PrepConfig((source,), tmp_path / "prepared", workers=1))
    assert os.listdir(tmp_path) == ["raw"]


@pytest.mark.parametrize(
    ("arguments", "useful"),
    [
        (["--source", ""], "source: got nothing, expected a folder"),
        (["--quality.max_aspect", "nan"], "quality.max_aspect"),
        (["--quality.max_aspect", "0.5"], "expected 1 or more"),
        (["--captions.kinds", "short", "tags"], "captions.kinds"),
        (["--captions.template", "no place"], "{caption}"),
        (["--trigger", "a\0b"], "trigger"),
        (["--limits.file_mb", "900"], "at most 500"),
        (["--scores.min_clip", "0.2"], "scores.clip_model"),
        (["--dedup.level", "embed"], "embed_model"),
        (["--captions.captioner", "blip"], "captions.model"),
        (["--background", "nocolour"], "background"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], useful: str) -> None:
    with pytest.raises(ValueError, match=useful):
        parse(PrepConfig, ["--source", "raw", "--output", "x", *arguments], program="prep")


def test_all_problems_of_the_options_are_reported_at_once() -> None:
    arguments = ["--source", "raw", "--output", "x", "--quality.max_aspect", "0.5", "--background", "nocolour"]
    arguments += ["--captions.captioner", "blip", "--captions.threshold", "2", "--workers", "many"]
    with pytest.raises(ValueError) as found:
        parse(PrepConfig, arguments, program="prep")
    named = [line.partition(":")[0] for line in str(found.value).splitlines()]
    assert named == ["workers", "background", "quality.max_aspect", "captions.threshold", "captions.model"]


def test_all_models_that_cannot_be_used_are_reported_at_once(config: PrepConfig, tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    options = {"captions": CaptionsConfig("blip", model=missing), "lint": LintConfig(missing)}
    with pytest.raises(ValueError) as found:
        prepare(replace(config, source=(missing,), scores=ScoresConfig(nsfw_model=missing), **options))
    named = [line.partition(":")[0] for line in str(found.value).splitlines()]
    assert named == ["source", "lint.tokenizer", "captions.model", "scores.nsfw_model"]
    assert not config.output.exists()


def test_kinds_and_prompt_that_the_captioner_cannot_follow_are_reported_at_once(config: PrepConfig) -> None:
    captions = CaptionsConfig("wd_tagger", model="m", kinds=("long",), prompt="Describe it.")
    with pytest.raises(ValueError, match=r"captions.kinds: got long.*\ncaptions.prompt: got 'Describe it.'"):
        prepare(replace(config, captions=captions))


def test_what_yaml_makes_of_off_and_no_is_understood(tmp_path: Path) -> None:
    preset = tmp_path / "prep.yaml"
    preset.write_text("source: [raw]\noutput: x\ndedup: {level: off}\nwrite: {reencode: no, txt: no}\n")
    config = parse(PrepConfig, ["--config", str(preset)], program="prep")
    assert (config.dedup.level, config.write.reencode, config.write.txt) == ("off", "no", False)
    preset.write_text(dump(config))
    assert parse(PrepConfig, ["--config", str(preset)], program="prep") == config


def test_a_file_of_the_result_that_lost_its_content_is_written_again(config: PrepConfig) -> None:
    prepare(config)
    expected = contents(config.output)
    next((config.output / "images").iterdir()).write_bytes(b"")
    assert prepare(config).is_new
    assert contents(config.output) == expected


def test_what_is_kept_by_hand_stays_beside_the_better_copy(config: PrepConfig) -> None:
    write(Path(config.source[0]), {"small_copy.jpg": encoded(drawn(1, (84, 70)), "JPEG", quality=90)})
    drop = replace(config, dedup=DedupConfig(near="drop"))
    prepare(drop)
    copy = next(row for row in rows_of(config.output, "rejected.jsonl") if row["source"] == "small_copy.jpg")
    append_decision(config.output / "decisions.jsonl", Decision(copy["sha256"], "", "keep"))
    prepare(drop)
    kept = kept_and_left_out(config.output)[0]
    assert "test/blue_2.png" in kept and kept["small_copy.jpg"]["near_duplicate_of"] == "test/blue_2.png"


def test_mistakes_in_options_are_all_named() -> None:
    arguments = ["--source", "raw", "--ouput", "x", "--quality.reject", "ugly", "--shard", "3/2"]
    with pytest.raises(ValueError) as caught:
        parse(PrepConfig, arguments, program="prep")
    message = str(caught.value)
    assert "Did you mean output?" in message and "output: missing" in message
    assert "quality.reject: got ugly" in message


def test_near_duplicates_that_stay_never_stand_on_both_sides(config: PrepConfig) -> None:
    source = Path(config.source[0])
    for seed in range(6):
        image = drawn(seed + 30, (160, 120))
        pale = Image.eval(image, lambda level: 40 + level * 3 // 4)
        edits = {"": image, "_small": image.resize((120, 90)), "_pale": pale}
        write(source, {f"set/{seed}{name}.png": encoded(edited) for name, edited in edits.items()})
    for seed in range(2):
        prepare(replace(config, split=SplitConfig(0.3, "picture", seed)))
        sides: dict[str, set[str]] = {}
        for row in rows_of(config.output):
            sides.setdefault(row["source"].partition("_")[0].removesuffix(".png"), set()).add(row["split"])
        assert all(len(found) == 1 for name, found in sides.items() if name.startswith("set/")), sides
        assert {"train", "validation"} == set().union(*sides.values())
