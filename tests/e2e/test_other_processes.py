import multiprocessing
import os
import pickle
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from finetune.data.manifest import Manifest, read_manifest
from tests.support.http_server import QuietHandler, serving
from tests.support.images import picture
from tests.support.launch import command, succeeded
from tests.unit.data.test_parquet import IMAGE, prepared
from tests.unit.datasets_prep.sources.test_detect import opened
from tests.unit.datasets_prep.sources.test_tables import entries


def listed_in_a_process(manifest: Manifest) -> list[bytes]:
    return [manifest.source.read(record.file_name) for record in manifest.records]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_processes_read_the_same(tmp_path: Path, method: str) -> None:
    manifest = read_manifest(prepared(tmp_path))
    here = listed_in_a_process(manifest)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(listed_in_a_process, [manifest] * 4) == [here] * 4


def test_listing_many_rows_takes_little_memory_beside_the_records(tmp_path: Path) -> None:
    number = 20_000
    columns = {"image": pyarrow.array([{"bytes": os.urandom(3000), "path": None}] * number, IMAGE)}
    columns |= {
        key: [value] * number for key, value in {"text": "x", "width": 1, "height": 1, "sha256": "0" * 64}.items()
    }
    columns["source"] = [str(row) for row in range(number)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=64, use_dictionary=False, compression="none")
    assert path.stat().st_size > 55 * 2**20
    program = (
        "import resource, sys, pyarrow.parquet; from finetune.data.manifest import read_manifest;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; m = read_manifest(sys.argv[1]);"
        "print(len(m.records), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    found, grown = map(int, succeeded(["-c", program, str(tmp_path)]).split())
    assert found == number and grown < 45


def test_a_saved_dataset_is_read_without_its_library_across_its_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": picture("red", size=(number + 1, 9)), "path": None} for number in range(7)]
    rows = datasets.Dataset.from_dict({"image": images, "text": [str(number) for number in range(7)]})
    for num_shards in (3, 2):  # the second time in the place of the first
        rows.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "rows"), num_shards=num_shards)
        source = opened(tmp_path / "rows")
        found, _ = entries(source)
        assert [source.read(name) for name in found] == [image["bytes"] for image in images]
    (tmp_path / "pickled").write_bytes(pickle.dumps(source))
    program = (
        "import pickle, sys; source = pickle.load(open(sys.argv[1], 'rb'));"
        "print(len(source.read('00000006-picture'))); assert not {'datasets', 'torch'} & set(sys.modules)"
    )
    assert int(succeeded(["-c", program, str(tmp_path / "pickled")])) == len(images[6]["bytes"])


def test_a_hub_dataset_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    code = "from tests.support.images import mistakes; print(mistakes('nobody/nothing'))"
    said = succeeded(["-c", code], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "data.folder" in said and "nobody/nothing" in said and "spelling" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", "is gated: ask for access on its Hub page"),
        (401, "RepoNotFound", "neither a folder nor on the Hub"),
        (404, "EntryNotFound", "has no selected_tags.csv on the Hub"),
    ],
)
def test_what_the_hub_refuses_is_reported_in_a_sentence(status: int, code: str, words: str, tmp_path: Path) -> None:
    class Hub(QuietHandler):
        def do_HEAD(self) -> None:
            self.send(status, {"X-Error-Code": code})

        do_GET = do_HEAD

    program = (
        "from datasets_prep.captioners import make_captioner\nfrom datasets_prep.config import CaptionsConfig\n"
        "make_captioner(CaptionsConfig(captioner='wd_tagger', model='owner/model', kinds=('tags',))).identity()\n"
    )
    with serving(Hub) as address:
        places = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = command(["-c", program], **places, NO_PROXY="127.0.0.1")
    assert done.stderr.splitlines()[-1].startswith("ValueError: captions.model: owner/model") and words in done.stderr


WITHOUT_OPENCV = """
import sys
sys.modules["cv2"] = None
import importlib.util as util
real = util.find_spec
util.find_spec = lambda name, *rest: None if name == "cv2" else real(name, *rest)
import numpy as np
from PIL import ImageOps
from datasets_prep.duplicates.search import Known, SearchedImages, SearchOptions, near_duplicates
from finetune.similarity.agreement import can_verify
from finetune.similarity.codes import image_codes
from tests.unit.similarity.test_agreement import heart, texture
assert not can_verify()
images = [texture(seed) for seed in range(12)] + [heart(colour) for colour in ("red", "green", "blue", "#888")]
images += [texture(3).resize((200, 160)), ImageOps.mirror(texture(4)), ImageOps.expand(texture(5), 40, "black")]
images += [texture(6).crop((20, 16, 380, 304)), heart("red").resize((128, 128))]
codes = np.stack([image_codes(each) for each in images])
num = len(images)
mask = np.ones(num, bool)
for level in ("fast", "thorough"):
    searched = SearchedImages(codes, np.arange(num), mask, ~mask, images.__getitem__)
    copies = near_duplicates(searched, SearchOptions(level), Known(), lambda *_: None).duplicates
    print({number: copy.keeper for number, copy in sorted(copies.items())})
"""


def test_without_opencv_copies_are_found_by_what_their_codes_tell_and_nothing_else_is() -> None:
    assert succeeded(["-c", WITHOUT_OPENCV]).splitlines() == ["{16: 3, 17: 4, 18: 5, 19: 6, 20: 12}"] * 2
