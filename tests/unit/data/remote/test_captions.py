from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import read_manifest
from tests.support.images import encoded, gradient, write
from tests.support.remote import InMemory, tar

IMAGE = encoded(gradient(20, 16))
CAPTIONED = {"b.png": encoded(gradient(24, 16)), "b.txt": b"another"}


@pytest.fixture
def storage() -> Iterator[InMemory]:
    found = InMemory()
    yield found
    found.clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a cat\na dog"),
        ("a.caption", "a cat"),
        ("a.json", '{"caption": "a cat"}'),
        ("captions.csv", "file_name,caption\na.png,a cat\n"),
        ("a.xmp", "<x><dc:description><rdf:li>a cat</rdf:li></dc:description></x>"),
        ("a.xml", "<page><caption>a cat</caption></page>"),
        ("a.html", "<p>1girl, solo</p>"),
        ("a.md", "a cat"),
        ("a.srt", "a cat"),
        ("captions.xlsx", "a cat"),
    ],
)
def test_an_archive_understands_the_caption_files_of_a_folder(
    storage: InMemory, name: str, text: str, tmp_path: Path
) -> None:
    files = CAPTIONED | {"a.png": IMAGE, name: text.encode()}
    url = storage.put("archive", {"0.tar": tar(files)})

    def captions(folder: str) -> list[tuple[str, ...]] | str:
        try:
            return [record.captions for record in read_manifest(folder, kept=KeptFiles(cache=tmp_path / "c")).records]
        except ValueError as error:
            return str(error).partition("\n")[2].partition("\n")[0].replace("0.tar/", "")

    found = captions(write(tmp_path / "folder", dict(files)))
    assert captions(url) == found
    assert "cat" in str(found) or name in found
