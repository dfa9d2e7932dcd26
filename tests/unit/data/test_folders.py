import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune.batches.buckets import assign_buckets
from finetune.config.folders import TrainingFolder
from finetune.config.mask import NO_MASKS, MaskConfig
from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import dump
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig
from finetune.data.class_images import is_class_image
from finetune.data.folders import factors_of, folder_counts, label_of, labels, read_folders
from finetune.data.manifest import Manifest
from tests.support.images import picture, write

BASE = ("--model.source", "base", "--output.folder", "out")


def images(folder: Path, num: int, caption: str = "a cat", colour: int = 0) -> str:
    """Write images with their captions, all of them different."""
    files: dict[str, bytes | str] = {}
    for number in range(num):
        files[f"{number}.png"] = picture(f"rgb({colour},{number},90)")
        files[f"{number}.txt"] = f"{caption} {number}"
    return write(folder, files)


def joined(*folders: TrainingFolder, held_out: Sequence[int] = (), mask: MaskConfig = NO_MASKS) -> Manifest:
    data = DataConfig(folders=folders, resolution=64, bucket_step=16)
    return read_folders(data, mask, ("listed", "listed"), "", lambda records: held_out)


def samples(manifest: Manifest) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in manifest.records:
        found[label_of(record)] = found.get(label_of(record), 0) + record.repeats
    return found


def test_each_folder_has_its_repeats_weight_words_and_resolution(tmp_path: Path) -> None:
    ink = images(tmp_path / "ink", 2, "a [trigger] boat")
    oil = images(tmp_path / "oil", 1, "a boat", colour=9)
    first = TrainingFolder(ink, repeats=3, trigger="sks", caption_suffix=", ink", weight=0.5)
    manifest = joined(first, TrainingFolder(oil, caption="a sea", caption_prefix="oil:", resolution=32))
    found = {each.file_name: (each.captions, each.repeats, each.weight) for each in manifest.records}
    assert found == {
        "ink/0.png": (("a sks boat 0, ink",), 3, 0.5),
        "ink/1.png": (("a sks boat 1, ink",), 3, 0.5),
        "oil/0.png": (("oil: a sea",), 1, 1.0),
    }
    assert manifest.source.read("oil/0.png") == (tmp_path / "oil" / "0.png").read_bytes()
    assert pickle.loads(pickle.dumps(manifest.source)).read("ink/1.png") == manifest.source.read("ink/1.png")
    assert manifest.path_of("oil/0.png") == tmp_path / "oil" / "0.png" and manifest.title == "ink, oil"
    buckets = assign_buckets(manifest.records, DataConfig("x", resolution=64, bucket_step=16))
    assert [max(each.width, each.height) > 40 for each in buckets] == [True, False]
    assert [(each.label, each.num_images, each.num_samples) for each in folder_counts(manifest, ())] == [
        ("ink", 2, 6),
        ("oil", 1, 1),
    ]


def test_shares_hold_within_a_thousandth_and_others_keep_their_repeats(tmp_path: Path) -> None:
    folders = [images(tmp_path / name, num, colour=num) for name, num in (("a", 3), ("b", 7), ("c", 2))]
    manifest = joined(
        TrainingFolder(folders[0], share=0.3), TrainingFolder(folders[1]), TrainingFolder(folders[2], repeats=2)
    )
    found = samples(manifest)
    assert found["a"] / sum(found.values()) == pytest.approx(0.3, rel=1e-3)
    assert found["b"] / found["c"] == pytest.approx(7 / 4)


@pytest.mark.parametrize(
    ("counts", "shares"), [([10, 30], [0.5, 0.5]), ([1, 999], [0.9, 0.1]), ([5, 5, 5], [0.2, None, 0.7])]
)
def test_factors_give_the_shares(counts: list[int], shares: list[float | None]) -> None:
    parts = [num * factor for num, factor in zip(counts, factors_of(counts, shares), strict=True)]
    for part, share in zip(parts, shares, strict=True):
        assert share is None or part / sum(parts) == pytest.approx(share, rel=1.01e-3)


def test_shares_that_need_an_endless_pass_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.folders.*more than 5,000,000 samples"):
        factors_of([1, 100_000], [0.999, 0.001])


def test_class_images_are_half_of_the_samples_and_never_held_out(tmp_path: Path) -> None:
    own, other = images(tmp_path / "own", 4), images(tmp_path / "class", 6, "a dog", colour=50)
    manifest = joined(TrainingFolder(own), TrainingFolder(other, is_regularisation=True, weight=0.5), held_out=[0])
    of_class = [each for each in manifest.records if is_class_image(each)]
    assert {each.captions[0][:5] for each in of_class} == {"a dog"} and {each.weight for each in of_class} == {0.5}
    assert {each.split for each in of_class} == {"train"}
    own_samples = sum(r.repeats for r in manifest.records if not is_class_image(r) and r.split == "train")
    assert own_samples == sum(each.repeats for each in of_class)
    assert manifest.source.read(of_class[0].file_name) == (tmp_path / "class" / "0.png").read_bytes()
    held_out = {number for number, each in enumerate(manifest.records) if each.split == "validation"}
    first, second = folder_counts(manifest, held_out)
    assert (len(held_out), first.num_images, second.num_images) == (1, 3, 6)
    assert (first.is_class, second.is_class) == (False, True) and first.share == pytest.approx(0.5, abs=0.01)


def test_masks_are_those_of_each_folder(tmp_path: Path) -> None:
    own, plain = images(tmp_path / "own", 1), images(tmp_path / "plain", 1, colour=70)
    write(tmp_path / "masks", {"0.png": picture("white")})
    folders = TrainingFolder(own, mask_folder=tmp_path / "masks"), TrainingFolder(plain, mask=False)
    manifest = joined(*folders, mask=MaskConfig(kind="file"))
    masks = {each.file_name: each.mask and each.mask.file_name for each in manifest.records}
    assert masks == {"own/0.png": "own/0.png", "plain/0.png": None}
    assert manifest.masks is not None and manifest.masks.read("own/0.png") == picture("white")


def test_mistakes_in_one_folder_and_folders_in_others_are_named(tmp_path: Path) -> None:
    own = images(tmp_path / "own", 1)
    with pytest.raises(FileNotFoundError, match=r"data\.folders: there is no folder .*gone"):
        joined(TrainingFolder(own), TrainingFolder(str(tmp_path / "gone")))
    inner = images(tmp_path / "own" / "inner", 1, colour=8)
    with pytest.raises(ValueError, match="would be read twice"):
        joined(TrainingFolder(own), TrainingFolder(inner))


def test_folders_of_one_name_get_numbers_and_the_fingerprint_knows_no_place(tmp_path: Path) -> None:
    assert labels(["a/x", "b/x", "x-2", "me/x"]) == ["x", "x-2", "x-2-2", "x-3"]
    prints = []
    for place in ("here", "there"):
        first, second = images(tmp_path / place / "a", 2), images(tmp_path / place / "b", 2, colour=30)
        prints.append(joined(TrainingFolder(first), TrainingFolder(second)).fingerprint)
    assert prints[0] == prints[1]


def test_a_config_with_folders_is_read_from_yaml_and_flags_and_written_back(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "data:\n  folders:\n    - plain\n    - {folder: more, share: 0.25, trigger: sks}\n"
        "    - folder: ~/class\n      is_regularisation: yes\n      mask_folder: null\n"
    )
    config = parse(LoRATrainConfig, ["--config", str(tmp_path / "x.yaml"), *BASE], program="test")
    assert config.data.folders == (
        TrainingFolder("plain"),
        TrainingFolder("more", share=0.25, trigger="sks"),
        TrainingFolder(str(Path.home() / "class"), is_regularisation=True),
    )
    (tmp_path / "y.yaml").write_text(dump(config))
    assert parse(LoRATrainConfig, ["--config", str(tmp_path / "y.yaml")], program="test") == config
    flags = parse(LoRATrainConfig, [*BASE, "--data.folders", "{folder: more, repeats: 2}", "b"], program="test")
    assert flags.data.folders == (TrainingFolder("more", repeats=2), TrainingFolder("b"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.folder", "x", "--data.folders", "y"], "data.folder: got x beside data.folders"),
        ([], "data.folder: missing"),
        (["--data.folders", "{image_dir: y}"], "It is called folder here"),
        (["--data.folders", "{repeats: 2}"], "an entry without folder"),
        (["--data.folders", "{folder: y, repeats: many}"], "repeats: got many, expected a whole number"),
        (["--data.folders", "{folder: y"], "which is not valid YAML"),
        (["--data.folders", "{folder: y, repeats: 0}"], "data.folders[0].repeats: got 0"),
        (["--data.folders", "{folder: y, repeats: 2, share: 0.5}", "z"], "one of both"),
        (["--data.folders", "{folder: y, share: 0.5}", "{folder: z, share: 0.6}"], "the shares sum to 1.1"),
        (["--data.folders", "{folder: y, is_regularisation: true}"], "expected images to learn too"),
        (["--data.folders", "y", "y"], "y is listed twice"),
        (["--data.folders", "{folder: y, resolution: 500}"], "a multiple of data.bucket_step 64. Use 512."),
        (["--data.folders", "{folder: y, mask_folder: m}"], "with mask.kind none"),
        (["--data.folders", "{folder: y, mask: false}"], "which uses no masks"),
        (["--data.folders", "y", "--mask.kind", "file", "--mask.folder", "m"], "Give each folder its mask_folder"),
        (
            ["--data.folders", "y", "{folder: z, is_regularisation: true}", "--data.template", "{caption}, ink"],
            "would give its words to the class images",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_refused_by_name(options: list[str], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(LoRATrainConfig, [*BASE, *options], program="test")
    assert words in str(raised.value)
