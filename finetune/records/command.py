"""`finetune records`: show, search and export images of many runs. Torch-free."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.plurals import plural
from finetune.records.csv_file import write_csv
from finetune.records.database import FILE, UnwritableRecordsError, opened, opened_to_read
from finetune.records.filters import filtered_field
from finetune.records.folders import has_images, image_folders
from finetune.records.search import Found, search
from finetune.records.update import rebuild_records, take_in

Say = Callable[[str], None]
WIDTHS = {"run": 24, "step": 7, "seed": 10, "size": 9, "difference": 10}
NARROWEST_PROMPT = 24


@dataclass(frozen=True)
class RecordsOptions:
    """Options of the command line."""

    folder: Path
    search: str | None = None
    filter: Sequence[str] = ()
    like: Path | None = None
    csv: Path | None = None
    num: int | None = None
    rebuild: bool = False


def show_records(options: RecordsOptions, say: Say = print) -> Found:
    """Bring the records up to date and show what is searched for."""
    refuse_wrong_folder(options.folder)
    if options.num is not None and options.num < 1:
        raise ValueError(f"num: got {options.num}, expected 1 or more. Omit it to show 20.")
    if options.rebuild:
        changes, aside = rebuild_records(options.folder)
        if aside is not None:
            say(f"The damaged file is kept as {aside}.")
        for line in changes.sentences():
            say(line)
    num = options.num or (None if options.csv else 20)
    bring_up_to_date(options.folder, say)
    with opened_to_read(options.folder / FILE) as records:
        found = search(records, words=options.search, filters=options.filter, like=options.like, num=num)
    if options.csv is not None:
        write_csv(options.csv, found.rows)
        say(f"Wrote {plural(len(found.rows), 'image')} to {options.csv}.")
        return found
    scores = [name for name in map(filtered_field, options.filter) if name.startswith("scores.")]
    for line in table_lines(found.rows, shutil.get_terminal_size((120, 40)).columns, dict.fromkeys(scores)):
        say(line)
    say(summary(found, is_searched=bool(options.search or options.filter or options.like)))
    return found


def refuse_wrong_folder(folder: Path) -> None:
    """Refuse a folder without run folders. The error names the one that is meant."""
    if not folder.is_dir():
        raise FileNotFoundError(f"records: there is no folder {folder}. Give the folder that contains run folders.")
    if image_folders(folder) or (folder / FILE).exists():
        return
    if has_images(folder):
        parent = folder.absolute().parent
        raise ValueError(
            f"records: {folder} is one run folder, expected the one around it. Use: finetune records {parent}"
        )
    raise ValueError(f"records: {folder} contains no run folders with images. Give the folder that contains them.")


def bring_up_to_date(folder: Path, say: Say) -> None:
    """Take in the images that are there now. Where nothing can be written, the records stay as they are."""
    try:
        with opened(folder / FILE) as records:
            for line in take_in(records, folder).sentences():
                say(line)
    except UnwritableRecordsError as error:
        if not (folder / FILE).is_file():
            raise
        say(f"warning: {error} Images since the last update are not shown.")


def table_lines(rows: Sequence[dict[str, Any]], width: int, scores: Iterable[str] = ()) -> list[str]:
    """Lay rows out as a table with some scores. The path is whole, so it can be copied."""
    if not rows:
        return []
    most = WIDTHS | dict.fromkeys(scores, 24)
    names = [name for name in most if name == "size" or any(row.get(name) is not None for row in rows)]
    texts = [{**row, "size": f"{row['width']}x{row['height']}"} for row in rows]
    widths = {name: min(most[name], max(len(name), *(len(shown(row.get(name))) for row in texts))) for name in names}
    longest = max(len(str(row["path"])) for row in rows)
    left = width - sum(widths.values()) - 2 * len(widths) - longest - 2
    widths["prompt"] = max(
        NARROWEST_PROMPT, min(left, max(len("prompt"), *(len(shown(row["prompt"])) for row in rows)))
    )
    lines = ["  ".join([*(name.ljust(each) for name, each in widths.items()), "path"])]
    for row in texts:
        cells = [cut(shown(row.get(name)), each).ljust(each) for name, each in widths.items()]
        lines.append("  ".join([*cells, shown(row["path"])]))
    return lines


def shown(value: object) -> str:
    """Write a cell for a terminal. Control characters, which could rule it, are escaped."""
    text = "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def cut(text: str, width: int) -> str:
    """Shorten a text to a width."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def summary(found: Found, *, is_searched: bool) -> str:
    """Say how many images there are."""
    all_of_them = plural(found.total, "image")
    if len(found.rows) < found.total:
        return f"{len(found.rows):,} of {all_of_them}. --num {found.total} shows all, --csv FILE writes them."
    return f"{all_of_them}{' found' if is_searched else ''}."
