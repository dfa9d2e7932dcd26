"""The report and the images of a prepared folder, for review."""

import re
from dataclasses import dataclass
from pathlib import Path

from datasets_prep.output.images import IMAGE_FOLDERS
from finetune.json_text import parse_json
from finetune.processes.local_page import served_policy
from finetune.report.page import POLICY

SERVED_POLICY = served_policy(POLICY)
"""Policy of the served page, which may request from this server only."""


@dataclass(frozen=True)
class ShownImage:
    """An image that can be decided about."""

    source: str
    path: Path | None
    """The image file; None where the image was rejected or is in a shard."""


def served_page(folder: Path) -> bytes:
    """Read the report and allow it to request from this server."""
    hint = "Expected a folder that python -m datasets_prep wrote. Check the path, or prepare it again."
    if not folder.is_dir():
        raise FileNotFoundError(f"review: there is no folder {folder}. {hint}")
    for name in ("report.html", "metadata.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"review: there is no {name} in {folder}. {hint}")
    page = (folder / "report.html").read_bytes()
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY};'.encode()
    if policy not in page[:1000]:
        raise ValueError(f"review: {folder / 'report.html'} is not a report of this version. {hint}")
    return page.replace(POLICY.encode(), SERVED_POLICY.encode(), 1)


def known_images(folder: Path, page: bytes) -> dict[str, ShownImage]:
    """List the images on the page by sha256. Memory depends on the page, not on the dataset."""
    shown = {match.decode("ascii") for match in re.findall(rb' data-sha="([0-9a-f]{64})"', page)}
    known: dict[str, ShownImage] = {}
    for name in ("rejected.jsonl", "metadata.jsonl"):  # the second last, since a kept image has its bytes here
        if not (folder / name).is_file():
            continue
        with open(folder / name, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = parse_json(line)
                    sha256, source = row.get("sha256"), str(row["source"])
                except (ValueError, KeyError, AttributeError, TypeError):
                    raise ValueError(
                        f"review: {folder / name} line {number} is not a line that python -m datasets_prep wrote. "
                        "Prepare the folder again."
                    ) from None
                if sha256 in shown:
                    known[sha256] = ShownImage(source, _image_path(folder, row.get("file_name")))
    return known


def _image_path(folder: Path, file_name: object) -> Path | None:
    """Find the file that a row names among the prepared images."""
    if not isinstance(file_name, str) or "\0" in file_name:
        return None
    path = (folder / file_name).resolve()
    is_image = any(path.is_relative_to((folder / name).resolve()) for name in IMAGE_FOLDERS)
    return path if is_image and path.is_file() else None
