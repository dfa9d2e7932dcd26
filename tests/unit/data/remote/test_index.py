import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.config.mask import MaskConfig
from finetune.config.sections import DataConfig
from finetune.data.captions.reading import CaptionReading
from finetune.data.captions.rewrite import CaptionEdits
from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import Manifest, configured_manifest, read_manifest
from finetune.data.remote import storage as remote_storage
from finetune.data.remote.storage import is_url
from tests.support.images import encoded, gradient, picture
from tests.support.remote import InMemory, table, tar

IMAGES = {f"{number}.png": encoded(gradient(20 + number, 16)) for number in range(6)}
CAPTIONS = [f"a gradient, {number}" for number in range(6)]
PLAIN = {"compression": "none", "use_dictionary": False}


@pytest.fixture
def storage() -> Iterator[InMemory]:
    found = InMemory()
    yield found
    found.clear()


def files(first: int = 0, stop: int = 6) -> dict[str, bytes]:
    """Images and their text files, as in an archive."""
    texts = {f"{number}.txt": CAPTIONS[number].encode() for number in range(first, stop)}
    return {name: IMAGES[name] for name in list(IMAGES)[first:stop]} | texts


def read(url: str, cache: Path, **options: object) -> Manifest:
    return read_manifest(url, kept=KeptFiles(cache=cache), **options)  # pyright: ignore[reportArgumentType]


def starts(manifest: Manifest) -> list[int | None]:
    """The first byte of each image in its shard, if known."""
    from finetune.data.remote.records import RemoteSource, open_index

    assert isinstance(manifest.source, RemoteSource)
    return open_index(manifest.source.index).column("start").to_pylist()


@pytest.mark.parametrize(
    ("shards", "has_starts"),
    [
        ({"a/0.tar": tar(files(0, 3)), "a/1.tar": tar(files(3))}, True),
        ({"data/train-0.parquet": table(IMAGES, CAPTIONS, **PLAIN)}, True),
        ({"0.parquet": table(IMAGES, CAPTIONS)}, False),
        ({"data/train-00000.parquet": table(IMAGES, CAPTIONS, prepared=True, **PLAIN)}, False),
    ],
    ids=["archives", "tables", "compressed", "prepared"],
)
def test_every_kind_of_shard_gives_the_images_of_a_folder(
    storage: InMemory, shards: dict[str, bytes], has_starts: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    manifest = read(storage.put(request.node.name, shards), tmp_path)
    assert [record.captions for record in manifest.records] == [(text,) for text in CAPTIONS]
    assert [(record.width, record.height) for record in manifest.records] == [(20 + each, 16) for each in range(6)]
    assert [start is not None for start in starts(manifest)] == [has_starts] * 6
    source = pickle.loads(pickle.dumps(manifest.source))
    contents = [source.read(record.file_name) for record in pickle.loads(pickle.dumps(manifest.records))]
    assert contents == list(IMAGES.values())
    assert [record.sha256 for record in manifest.records] == [hashlib.sha256(data).hexdigest() for data in contents]
    assert manifest.records[-1] == manifest.records[5] == manifest.records[4:6][1]
    with pytest.raises(FileNotFoundError, match="index"):
        source.read("another")


def test_captions_are_changed_as_those_of_a_folder(
    storage: InMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = storage.put("edited", {"0.tar": tar({"a.png": IMAGES["0.png"], "a.txt": b"a {red|blue} [trigger]"})})
    edits = CaptionEdits(expand=True, trigger="zkw")
    (record,) = read(url, tmp_path, reading=CaptionReading(edits=edits)).records
    assert record.captions == ("a red zkw", "a blue zkw")
    assert "once (" in capsys.readouterr().err
    plain = read(url, tmp_path)
    assert capsys.readouterr().err == ""  # other changes of captions need no other index
    assert plain.records[0].captions == ("a {red|blue} [trigger]",) and "0.tar/a.png" in "".join(plain.warnings)
    several = DataConfig(folder=url, captions="none")
    assert configured_manifest(several, MaskConfig(), "none", kept=KeptFiles(cache=tmp_path)).records[0].captions == (
        "",
    )


def test_warnings_of_an_index_are_said_again_and_other_splits_are_named(
    storage: InMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tar(files(0, 2) | {"0-masklabel.png": picture("white"), "metadata.jsonl": b"", "1.heic": b""})
    url = storage.put("odd", {"train/0.tar": odd, "train/0.parquet": b"not read", "val/0.tar": b"not read"})
    first = read(url, tmp_path)
    assert "once (" in capsys.readouterr().err
    again = read(url, tmp_path)
    assert first.warnings == again.warnings and capsys.readouterr().err == ""
    for word in ("masks in archives", "listings in archives", "train/0.parquet", "val/0.tar"):
        assert word in "\n".join(again.warnings)


def test_only_changed_shards_are_read_again(
    storage: InMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {"0.tar": tar(files(0, 2)), "1.tar": tar(files(2, 4)), "2.tar": tar(files(4))}
    url = storage.put("changed", shards)
    before = read(url, tmp_path)
    storage.put("changed", {"1.tar": tar(files(2, 3))})
    after = read(url, tmp_path)
    assert "reading 1 shard" in capsys.readouterr().err
    assert "changed since they were last read, and are read again (1): 1.tar" in "".join(after.warnings)
    changes = after.changes(before.digests())
    assert (changes.added, changes.removed, changes.changed) == ((), ("1.tar/3.png",), ())
    with pytest.raises(ValueError, match="changed while the run was going"):
        KeptFiles().read(before.source, "1.tar/2.png", "0" * 64)


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ({"a.txt": b""}, "no .parquet or .tar files below memory://images/.* of 1 file there"),
        ({"0.tar": tar(files()), "1.parquet": b""}, "both .parquet and .tar files"),
        ({"0.tar": b"<html>"}, "not whole and uncompressed .tar files .1.: 0.tar"),
        ({"0.tar": tar(files())[:2000]}, "not whole and uncompressed .tar files|without a caption|not usable images"),
        ({"0.tar": tar({"a.png": IMAGES["0.png"]}), "1.tar": tar({"b.png": b"x"})}, "0.tar/a.png(.|\n)*1.tar/b.png"),
        ({"0.tar": tar({"../a.png": IMAGES["0.png"]})}, "lead out"),
        ({"0.tar": tar({"a.txt": b"a"})}, "have no images"),
        ({"0.parquet": b"PAR1"}, "not whole Parquet files .1.: 0.parquet"),
        ({"0.parquet": table({"a": b"x"}, ["a"])}, "without a usable image"),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_shards_is_said_at_once(
    storage: InMemory, shards: dict[str, bytes], words: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = storage.put(hashlib.sha256(request.node.name.encode()).hexdigest(), shards)
    with pytest.raises(ValueError, match=words):
        read(url, tmp_path)


def test_a_prompt_is_the_caption_where_no_other_column_may_be(storage: InMemory, tmp_path: Path) -> None:
    url = storage.put("prompts", {"0.parquet": table(IMAGES, CAPTIONS, column="prompt")})
    manifest = read(url, tmp_path)
    assert [record.captions for record in manifest.records] == [(caption,) for caption in CAPTIONS]
    assert "of which another is read (1): 0.parquet (prompt)" in "\n".join(manifest.warnings)


def test_options_that_shards_do_not_have_are_refused(storage: InMemory, tmp_path: Path) -> None:
    url = storage.put("refused", {"0.parquet": table(IMAGES, CAPTIONS)})
    with pytest.raises(ValueError, match=r"data.caption_column: 'prompt' is not a column of memory://images/refused/0"):
        read(url, tmp_path, reading=CaptionReading("prompt"))
    with pytest.raises(ValueError, match=r"data.image_column"):
        read(url, tmp_path, image_column="jpg")
    with pytest.raises(ValueError, match=r"data.captions: got folder"):
        read(url, tmp_path, captions="folder")
    with pytest.raises(ValueError, match=r"mask.kind"):
        read(url, tmp_path, mask=MaskConfig(kind="alpha"))


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install .*gcsfs"):
        read("gs://bucket/folder", tmp_path)
    with pytest.raises(ValueError, match="protocol nothing"):
        read("nothing://bucket/folder", tmp_path)
    assert is_url("s3://a/b") and not is_url("C://a") and not is_url("a/b")


def test_reads_are_tried_again_and_then_name_the_url(
    storage: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read(storage.put("lost", {"0.tar": tar(files())}), tmp_path)
    monkeypatch.setattr(remote_storage, "WAITS", (0.01, 0.01))
    storage.put("lost", {"0.tar": tar(files())[:1000]})
    with pytest.raises(OSError, match=r"memory://images/lost/0.tar could not be read .*AWS_ENDPOINT_URL"):
        manifest.source.read("0.tar/5.png")
    assert capsys.readouterr().err.count("trying again") == 2
    storage.clear()
    with pytest.raises(FileNotFoundError, match=r"memory://images/lost/0.tar is not there"):
        manifest.source.read("0.tar/5.png")
