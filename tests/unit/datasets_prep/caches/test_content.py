import os
from pathlib import Path

from PIL import Image

from datasets_prep.caches.content import ContentCache
from datasets_prep.report.thumbnails import cached_small_image
from finetune.data.listing import Findings


def test_what_is_kept_is_there_for_the_next_run(tmp_path: Path) -> None:
    findings = Findings()
    cache = ContentCache(tmp_path / "own" / "kept.sqlite", findings)
    cache.put("a", b"\0one")
    cache.put("a", b"\0two")
    cache.close()
    again = ContentCache(tmp_path / "own" / "kept.sqlite", findings)
    assert again.get("a") == b"\0two" and again.get("b") is None and findings.warnings == ()
    again.close()


def test_the_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    for mask in (0o002, 0o077):
        before = os.umask(mask)
        try:
            ContentCache(tmp_path / f"{mask}.sqlite", Findings()).close()
        finally:
            os.umask(before)
        assert (tmp_path / f"{mask}.sqlite").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_damaged_file_is_counted_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite"
    cache = ContentCache(path, Findings())
    for number in range(600):
        cache.put(str(number), bytes(50))
    cache.close()
    data = path.read_bytes()
    for content in (b"not a database" * 100, data[:8192] + b"\xff" * (len(data) - 8192)):
        path.write_bytes(content)
        findings = Findings()
        cache = ContentCache(path, findings)
        assert cache.get("999") is None
        assert findings.warnings == ("damaged caches, which are made again (1): kept.sqlite",)
        cache.put("a", b"one")
        assert cache.get("a") == b"one"
        cache.close()


def test_a_thumbnail_is_made_once_for_its_content(tmp_path: Path) -> None:
    opened: list[str] = []

    def read(name: str) -> bytes:
        if name == "gone.png":
            raise OSError("gone")
        return b"content"

    def load(name: str) -> Image.Image:
        opened.append(name)
        return Image.new("RGB", (300, 200), "red")

    cache = ContentCache(tmp_path / "kept.sqlite", Findings())
    first, again, gone = (
        cached_small_image(f"{name}.png", read, load, "white", cache) for name in ("a", "same", "gone")
    )
    assert first == again and first is not None and (first.width, first.height) == (300, 200)
    assert gone is None and opened == ["a.png"]
    cached_small_image("a.png", read, load, "black", cache)
    assert opened == ["a.png", "a.png"]
    cache.close()
