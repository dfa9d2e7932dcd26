import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets_prep.captioners import make_captioner
from datasets_prep.captioners.cleaning import clean_result
from datasets_prep.captioners.http import HttpCaptioner
from datasets_prep.config import CaptionsConfig, DedupConfig, LintConfig, PrepConfig, ScoresConfig
from datasets_prep.decisions import Decision, append_decision
from datasets_prep.pipeline import Outcome, prepare
from finetune.similarity.agreement import can_verify
from tests.support.caption_server import CaptionServer, serving_captions
from tests.support.images import drawn, encoded, write
from tests.support.prepared import kept_and_left_out
from tests.tiny.captioners import save_blip
from tests.tiny.vision import save_classifier, save_clip, save_dinov2

NAMES = ("red boat", "green sea", "old house", "blue sky", "small dog", "dark wall")
TOKENIZER = Path(__file__).parents[4] / "finetune" / "assets" / "pictograms" / "tokenizer"
needs_opencv = pytest.mark.skipif(not can_verify(), reason="OpenCV, the extra [dedup], is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    saved = {
        "aesthetic": save_classifier(folder / "aesthetic", ["score"], "regression"),
        "nsfw": save_classifier(folder / "nsfw", ["normal", "nsfw"]),
        "watermark": save_classifier(folder / "watermark", ["watermark", "clean"]),
        "animals": save_classifier(folder / "animals", ["cat", "dog"]),
        "clip": save_clip(folder / "clip"),
        "dinov2": save_dinov2(folder / "dinov2"),
        "blip": save_blip(folder / "blip"),
    }
    tokenizer = saved["blip"] / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]  # every word becomes a sentence, for only whole ones are used
    content["model"]["vocab"] = {f"{word}." if word.isalpha() else word: number for word, number in vocabulary.items()}
    tokenizer.write_text(json.dumps(content))
    return {name: str(path) for name, path in saved.items()}


@pytest.fixture
def config(tmp_path: Path) -> PrepConfig:
    files: dict[str, bytes | str] = {f"{name}.png": encoded(drawn(seed)) for seed, name in enumerate(NAMES)}
    return PrepConfig((write(tmp_path / "raw", files),), tmp_path / "prepared", workers=1)


Steps = list[tuple[str, int, int]]


def steps(seen: Steps, what: str) -> list[tuple[int, int]]:
    return [(done, total) for name, done, total in seen if name.startswith(what)]


def prepared(config: PrepConfig, **options: Any) -> tuple[dict[str, dict], dict[str, dict], Steps, Outcome]:
    """Prepare; return kept and rejected lines by source, and progress."""
    seen: Steps = []
    outcome = prepare(replace(config, **options), lambda *step: seen.append(step))
    kept, left_out = (
        {Path(source).stem: row for source, row in found.items()} for found in kept_and_left_out(config.output)
    )
    return kept, left_out, seen, outcome


@pytest.mark.parametrize(
    ("name", "limit", "is_least"),
    [("aesthetic", "min_aesthetic", True), ("nsfw", "max_nsfw", False), ("watermark", "max_watermark", False)],
)
def test_images_beyond_the_limit_are_left_out_with_their_score_but_for_those_a_user_keeps(
    config: PrepConfig, models: dict[str, str], name: str, limit: str, is_least: bool
) -> None:
    options: dict[str, Any] = {f"{name}_model": models[name], "batch_size": 4}
    kept, left_out, seen, _ = prepared(config, scores=ScoresConfig(**options))
    scores = {source: row["scores"][name] for source, row in kept.items()}
    assert len(set(scores.values())) == 6 and left_out == {}
    assert steps(seen, "scoring") == [(done, 6) for done in range(1, 7)]

    by_score = sorted(scores, key=lambda source: scores[source], reverse=is_least)
    protected = by_score[5]
    append_decision(config.output / "decisions.jsonl", Decision(kept[protected]["sha256"], "", "keep"))
    options[limit] = (scores[by_score[2]] + scores[by_score[3]]) / 2
    kept, left_out, seen, outcome = prepared(config, scores=ScoresConfig(**options), trigger="ink style")
    assert set(kept) == {*by_score[:3], protected} and set(left_out) == set(by_score[3:5])
    assert {source: row["scores"][name] for source, row in kept.items()} == {source: scores[source] for source in kept}
    for source, row in left_out.items():
        assert row["reason"] == "low_score" and row["score"] == pytest.approx(scores[source], abs=1e-4)
        assert name in row["detail"] and ("at least" if is_least else "at most") in row["detail"]
    assert outcome.rejected == {"low_score": 2}
    assert steps(seen, "scoring") == [], "what was scored is scored again"
    assert all(row["text"].endswith(", ink style") for row in kept.values()), "it is not made again"


def test_a_new_image_alone_is_scored_and_an_interrupted_run_continues(
    config: PrepConfig, models: dict[str, str]
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("scoring") and done == 4:
            raise KeyboardInterrupt

    scores = ScoresConfig(nsfw_model=models["nsfw"], batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        prepare(replace(config, scores=scores), interrupt)
    kept, _, seen, _ = prepared(config, scores=scores)
    assert steps(seen, "scoring") == [(1, 2), (2, 2)]
    write(Path(config.source[0]), {"new one.png": encoded(drawn(20))})
    again, _, seen, _ = prepared(config, scores=scores)
    assert steps(seen, "scoring") == [(1, 1)]
    assert {source: again[source]["scores"] for source in kept} == {source: kept[source]["scores"] for source in kept}
    assert "nsfw" in again["new one"]["scores"]


def test_another_model_in_the_same_folder_scores_all_again(config: PrepConfig, tmp_path: Path) -> None:
    scores = ScoresConfig(nsfw_model=str(save_classifier(tmp_path / "model", ["normal", "nsfw"])))
    before, _, _, _ = prepared(config, scores=scores)
    save_classifier(tmp_path / "model", ["nsfw", "normal"])  # the same weights, the other way round
    after, _, seen, outcome = prepared(config, scores=scores)
    assert outcome.is_new and len(steps(seen, "scoring")) == 6
    for name in NAMES:
        assert after[name]["scores"]["nsfw"] == pytest.approx(1 - before[name]["scores"]["nsfw"], abs=1e-4)


def test_a_near_duplicate_that_passes_stays_for_a_better_one_that_does_not(
    tmp_path: Path, models: dict[str, str]
) -> None:
    large = drawn(3, (300, 260))
    same, small = encoded(large), encoded(large.resize((150, 130)))
    source = write(tmp_path / "raw", {"large.png": same, "same.png": same, "small.png": small})
    config = PrepConfig((source,), tmp_path / "prepared", workers=1, dedup=DedupConfig(near="drop"))
    _, left_out, _, _ = prepared(config)
    assert reasons(left_out) == {"same": ("exact_duplicate", "large.png"), "small": ("near_duplicate", "large.png")}
    scores = ScoresConfig(watermark_model=models["watermark"])
    both, _, _, _ = prepared(config, scores=scores, dedup=DedupConfig("off"))
    of_large, of_small = (both[name]["scores"]["watermark"] for name in ("large", "small"))
    assert of_small < of_large
    kept, left_out, _, _ = prepared(config, scores=replace(scores, max_watermark=(of_small + of_large) / 2))
    assert set(kept) == {"small"}
    assert {name: (row["reason"], row["score"]) for name, row in left_out.items()} == {
        name: ("low_score", pytest.approx(of_large, abs=1e-4)) for name in ("large", "same")
    }


def test_images_that_do_not_agree_with_their_captions_are_left_out(config: PrepConfig, models: dict[str, str]) -> None:
    texts = ("a red square", "a green circle", "a grey square on red", "a blue circle", "green on blue", "a circle")
    source = Path(config.source[0])
    write(source, {f"{name}.txt": text for name, text in zip(NAMES, texts, strict=True)})
    scores = ScoresConfig(clip_model=models["clip"])
    kept, _, _, _ = prepared(config, scores=scores)
    agreement = {name: row["scores"]["clip"] for name, row in kept.items()}
    assert len(set(agreement.values())) == 6 and all(-1 <= value <= 1 for value in agreement.values())

    (source / "old house.txt").write_text("a blue square on green")
    kept, _, seen, _ = prepared(config, scores=scores)
    assert steps(seen, "scoring") == [(1, 1)], "only the image with another caption is scored"
    changed = {name: row["scores"]["clip"] for name, row in kept.items()}
    assert {name for name in NAMES if changed[name] != agreement[name]} == {"old house"}

    worst = sorted(changed, key=lambda name: changed[name])[:2]
    limit = sorted(changed.values())[1] + 1e-4
    kept, left_out, seen, _ = prepared(config, scores=replace(scores, min_clip=limit))
    assert set(left_out) == set(worst) and steps(seen, "scoring") == []
    assert {row["reason"] for row in left_out.values()} == {"low_score"}


def blip_options(models: dict[str, str], **options: Any) -> CaptionsConfig:
    options = {"kinds": ("short",), "max_new_tokens": 6} | options
    return CaptionsConfig(captioner="blip", model=models["blip"], **options)


@pytest.fixture(scope="module")
def spoken(models: dict[str, str]) -> dict[str, str]:
    captioner = make_captioner(blip_options(models))
    captioner.load()
    results = [captioner.caption([drawn(seed)], "short", [""])[0] for seed in range(len(NAMES))]
    return {name: clean_result(result, "short").text for name, result in zip(NAMES, results, strict=True)}


def test_written_captions_fill_replace_or_are_added_and_are_written_once(
    config: PrepConfig, models: dict[str, str], spoken: dict[str, str]
) -> None:
    assert all(spoken.values()) and len(set(spoken.values())) > 2
    write(Path(config.source[0]), {"red boat.txt": "a boat by hand", "old house.txt": "mine\nthe second"})
    found, origins, totals = {}, {}, {}
    for mode in ("fill", "add", "replace"):
        captions = blip_options(models, mode=mode, prefix="ink: ", template="{caption} On paper.")
        kept, _, seen, _ = prepared(config, captions=captions, trigger="ink style")
        found[mode] = {name: [row["text"], *row.get("captions_alt", [])] for name, row in kept.items()}
        origins[mode] = {name: row["caption_from"] for name, row in kept.items()}
        totals[mode] = steps(seen, "captioning")[0]
    new = {name: f"ink: {text} On paper., ink style" for name, text in spoken.items()}
    hand = {"red boat": ["a boat by hand, ink style"], "old house": ["mine, ink style", "the second, ink style"]}
    assert found["replace"] == {name: [text] for name, text in new.items()}
    assert found["fill"] == {name: hand.get(name, [new[name]]) for name in NAMES}
    assert found["add"] == {name: [*hand.get(name, []), new[name]] for name in NAMES}
    by_hand = {name: "source" if name in hand else "blip" for name in NAMES}
    assert origins == {"fill": by_hand, "add": by_hand, "replace": dict.fromkeys(NAMES, "blip")}
    assert totals == {"fill": (0, 4), "add": (4, 6), "replace": (6, 6)}, "only what is missing is written"


def test_a_decided_caption_is_not_asked_for_nor_replaced(
    config: PrepConfig, models: dict[str, str], spoken: dict[str, str]
) -> None:
    kept, _, _, _ = prepared(config)
    decision = Decision(kept["blue sky"]["sha256"], "", "caption", "a calm sky")
    append_decision(config.output / "decisions.jsonl", decision)
    kept, _, seen, _ = prepared(config, captions=blip_options(models, mode="replace"))
    assert (kept["blue sky"]["text"], kept["blue sky"]["caption_from"]) == ("a calm sky", "decision")
    assert steps(seen, "captioning")[0] == (0, 5)
    assert {name: row["text"] for name, row in kept.items()} == spoken | {"blue sky": "a calm sky"}


def test_a_caption_without_an_end_is_not_used_and_the_name_stands_in(
    config: PrepConfig, models: dict[str, str], tmp_path: Path
) -> None:
    endless = save_blip(tmp_path / "endless")
    captions = CaptionsConfig(captioner="blip", model=str(endless), kinds=("short",), max_new_tokens=3)
    kept, _, _, outcome = prepared(config, captions=captions)
    stopped = {name for name, row in kept.items() if row["caption_from"] == "blip"}
    assert len(stopped) < len(NAMES)
    assert all(kept[name]["text"] == name for name in NAMES if name not in stopped)
    assert f"cut after the last whole sentence or not used ({6 - len(stopped)})" in " ".join(outcome.notices)


def colour_of(image: Image.Image) -> str:
    return f"colour {image.convert('RGB').resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))}"


def said_of(seed: int) -> str:
    """Return the server's text for the image, which it sees as JPEG."""
    return colour_of(Image.open(io.BytesIO(encoded(drawn(seed), "JPEG", quality=90))))


def shown(request: dict[str, Any]) -> Image.Image:
    address = request["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.fixture
def server() -> Iterator[CaptionServer]:
    """Name the mean colour of an image. The first two requests wait for each other."""
    with serving_captions() as server:
        server.together, server.num_together = threading.Barrier(2), 2
        server.content = lambda request: colour_of(shown(request))
        yield server


def served(server: CaptionServer, **options: Any) -> CaptionsConfig:
    return CaptionsConfig(
        captioner="http", url=server.url, model="tiny-vl", requests_in_flight=2, batch_size=2, **options
    )


def test_a_server_that_fails_in_the_middle_is_asked_only_for_the_rest(
    tmp_path: Path, server: CaptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = HttpCaptioner.__init__.__kwdefaults__
    assert waits is not None
    monkeypatch.setitem(waits, "first_wait", 0.001)  # half a minute an image otherwise
    source = write(tmp_path / "raw", {f"{number}.png": encoded(drawn(number)) for number in range(66)})
    config = PrepConfig((source,), tmp_path / "prepared", workers=1, dedup=DedupConfig("off"))
    captions = served(server)
    server.answers, server.afterwards = [(200, {})] * 16, 500  # a batch: eight times the requests in flight
    with pytest.raises(OSError, match=r"status 500 .*What is written so far is kept.*run the same command again"):
        prepare(replace(config, captions=captions))
    assert server.most_in_flight == 2 and not (config.output / "metadata.jsonl").exists()

    server.afterwards = 200
    server.requests.clear()
    server.num_together = 0
    kept, _, seen, outcome = prepared(config, captions=captions)
    assert len(server.requests) == 66 - 16 and steps(seen, "captioning")[0] == (16, 66)
    assert {name: row["text"] for name, row in kept.items()} == {str(seed): said_of(seed) for seed in range(66)}
    assert {row["caption_from"] for row in kept.values()} == {"http"} and outcome.notices == ()
    whole = replace(config, output=tmp_path / "at once", captions=captions)
    prepare(whole)
    assert (whole.output / "metadata.jsonl").read_bytes() == (config.output / "metadata.jsonl").read_bytes()


def test_broken_characters_of_a_server_end_no_run(config: PrepConfig, server: CaptionServer) -> None:
    odd = "\0 in\ta \x1bframe \ud83d"  # json writes the half character as it is
    server.content = lambda request: colour_of(shown(request)) + odd
    kept, _, _, _ = prepared(config, captions=served(server))
    expected = {name: f"{said_of(seed)} in a frame" for seed, name in enumerate(NAMES)}
    assert {name: row["text"] for name, row in kept.items()} == expected


def squares(seed: int) -> Image.Image:
    """An image with corners all over, so parts are recognized."""
    colours = np.random.default_rng(seed).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((500, 400), Image.Resampling.NEAREST)


@pytest.fixture
def copies(tmp_path: Path) -> PrepConfig:
    """Two images with an off-centre crop each, one saved twice."""
    files: dict[str, bytes | str] = {f"{seed}.png": encoded(squares(seed)) for seed in range(3)}
    files |= {"0_corner.png": encoded(squares(0).crop((0, 0, 300, 250)))}
    files |= {"1_edge.png": encoded(squares(1).crop((100, 0, 500, 300)))}
    files |= {"2_again.webp": encoded(squares(2), "WEBP", lossless=True)}
    return PrepConfig((write(tmp_path / "raw", files),), tmp_path / "prepared", workers=1)


def reasons(left_out: dict[str, dict]) -> dict[str, tuple[str, str]]:
    return {name: (row["reason"], row["duplicate_of"]) for name, row in left_out.items()}


def test_without_a_level_only_the_same_pixels_are_copies(copies: PrepConfig) -> None:
    kept, left_out, seen, _ = prepared(copies, dedup=DedupConfig("off"))
    assert reasons(left_out) == {"2_again": ("pixel_duplicate", "2.png")}
    assert not any("near_duplicate_of" in row for row in kept.values()) and steps(seen, "near") == []


@needs_opencv
def test_the_thorough_level_finds_off_centre_crops(copies: PrepConfig) -> None:
    kept, left_out, _, outcome = prepared(copies, dedup=DedupConfig("thorough", near="drop"))
    crops = {"0_corner": ("near_duplicate", "0.png"), "1_edge": ("near_duplicate", "1.png")}
    assert reasons(left_out) == crops | {"2_again": ("pixel_duplicate", "2.png")}
    assert outcome.rejected == {"near_duplicate": 2, "pixel_duplicate": 1} and set(kept) == {"0", "1", "2"}


@needs_opencv
def test_a_vision_model_brings_pairs_together_and_looks_at_each_image_once(
    copies: PrepConfig, models: dict[str, str]
) -> None:
    embed = DedupConfig("embed", near="report", embed_model=models["dinov2"], embed_similarity=0.0)
    kept, _, seen, _ = prepared(copies, dedup=embed)
    named = {name: row["near_duplicate_of"] for name, row in kept.items() if "near_duplicate_of" in row}
    assert named == {"0_corner": "0.png", "1_edge": "1.png"}
    assert steps(seen, "embedding") == [(done, 5) for done in range(1, 6)], "the copy of the same pixels is out before"

    kept, left_out, seen, _ = prepared(copies, dedup=replace(embed, near="drop"), trigger="ink")
    assert set(kept) == {"0", "1", "2"} and set(left_out) == {"0_corner", "1_edge", "2_again"}
    assert steps(seen, "embedding") == []

    strict = replace(embed, near="drop", embed_similarity=1.0)
    kept, left_out, seen, _ = prepared(copies, dedup=strict)
    assert reasons(left_out) == {"2_again": ("pixel_duplicate", "2.png")}, "only the model brings the crops together"
    write(Path(copies.source[0]), {"new.png": encoded(squares(9))})
    _, _, seen, _ = prepared(copies, dedup=strict)
    assert steps(seen, "embedding") == [(1, 1)]


def test_captions_are_counted_in_the_tokens_of_the_named_tokenizer(config: PrepConfig) -> None:
    words = "longer than 2 tokens"  # "blue sky" is two words and three of that tokenizer's tokens
    prepare(replace(config, lint=LintConfig(max_tokens=2)))
    assert words not in (config.output / "report.html").read_text(encoding="utf-8")
    prepare(replace(config, lint=LintConfig(str(TOKENIZER), max_tokens=2)))
    report = (config.output / "report.html").read_text(encoding="utf-8")
    assert words in report and "blue sky.png" in report.partition(words)[2]


@pytest.mark.parametrize(
    ("option", "model", "words"),
    [
        ("scores.nsfw_model", "./nowhere", "./nowhere is not a folder"),
        ("scores.watermark_model", "animals", "the labels .* are cat, dog"),
        ("scores.aesthetic_model", "empty", "no config.json"),
        ("scores.clip_model", "dinov2", ".* type dinov2"),
        ("dedup.embed_model", "./nowhere", "./nowhere is not a folder"),
        ("captions.model", "./nowhere", "./nowhere is not a folder"),
        ("lint.tokenizer", "./nowhere", ".*nowhere"),
        ("lint.tokenizer", "empty", ""),
    ],
)
def test_a_model_that_cannot_do_it_is_refused_before_anything_is_measured(
    config: PrepConfig, models: dict[str, str], tmp_path: Path, option: str, model: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    place = (models | {"empty": str(tmp_path / "empty")}).get(model, model)
    section, _, key = option.partition(".")
    own = {"dedup": {"level": "embed"}, "captions": {"captioner": "blip"}}.get(section, {})
    kinds = {"scores": ScoresConfig, "dedup": DedupConfig, "captions": CaptionsConfig, "lint": LintConfig}
    chosen: dict[str, Any] = {section: kinds[section](**own, **{key: place})}
    seen: Steps = []
    with pytest.raises(ValueError, match=f"{re.escape(option)}: {words}"):
        prepare(replace(config, **chosen), lambda *step: seen.append(step))
    assert seen == [] and not config.output.exists()
