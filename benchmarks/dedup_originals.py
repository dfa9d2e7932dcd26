"""How often the original is kept among all its edits."""

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.dedup_edits import PHOTO_EDITS
from benchmarks.dedup_scenes import SCENE_EDITS
from datasets_prep.duplicates.keeper import Details, Member, with_best_keepers
from datasets_prep.duplicates.search import Known, SearchedImages, SearchOptions, keep_order, near_duplicates
from datasets_prep.measure.figures import jpeg_quality
from finetune.similarity.codes import image_codes

EDITS_A_GROUP = 4


def files_of(image: Image.Image, half: int, names: Sequence[str]) -> list[bytes]:
    """Return the image and its edits of these names as JPEG files."""
    edits = PHOTO_EDITS | {name: both[half] for name, both in SCENE_EDITS.items()}
    saved = []
    for each in (image, *(edits[name](image) for name in names)):
        buffer = io.BytesIO()
        each.save(buffer, "JPEG", quality=95)
        saved.append(buffer.getvalue())
    return saved


def kept_of(files: Sequence[bytes]) -> list[int]:
    """Return which images are kept, as preparation does. The first is the original, the others are its edits."""
    opened = [Image.open(io.BytesIO(data)) for data in files]
    qualities = [jpeg_quality(image) for image in opened]
    images, num = [image.convert("RGB") for image in opened], len(files)
    pixels, sizes = np.array([each.width * each.height for each in images]), np.array([len(data) for data in files])
    order = keep_order(pixels, sizes, np.zeros(num, bool), [f"{number:03d}" for number in range(num)])
    ranks, kept = {int(number): rank for rank, number in enumerate(order)}, {}
    thumbs, small = [each.copy() for each in images], [each.copy() for each in images]
    for each, side in [(each, 256) for each in thumbs] + [(each, 512) for each in small]:
        each.thumbnail((side, side), Image.Resampling.BICUBIC)
    codes, nothing = np.stack([image_codes(thumb) for thumb in thumbs]), np.zeros(num, bool)
    searched = SearchedImages(codes, order, ~nothing, nothing, small.__getitem__)
    near = near_duplicates(searched, SearchOptions("thorough"), Known(appearances=kept), lambda *_: None).duplicates
    found = with_best_keepers(
        near,
        lambda number: Member(number, ranks[number], float(qualities[number]), False),
        lambda number: False,
        Details(images.__getitem__, kept),
        str,
    )
    return [number for number in range(num) if number not in found]


def print_originals_kept(images: Sequence[Image.Image], halves: Sequence[str]) -> None:
    """Print in how many groups only the original is kept. Also print which edits are kept in its place."""
    names, chance = [*PHOTO_EDITS, *SCENE_EDITS], np.random.default_rng(0)
    print("\nClean originals kept, of each photograph with edits")
    for title, num in (("with all edits", len(names)), (f"with {EDITS_A_GROUP} drawn edits", EDITS_A_GROUP)):
        kept, beaten, others = 0, Counter[str](), 0
        for image, half in zip(images, halves, strict=True):
            drawn = [names[place] for place in sorted(chance.choice(len(names), num, replace=False))]
            left = kept_of(files_of(image, int(half == "other half"), drawn))
            kept += 0 in left
            others += len(left) - (0 in left)
            beaten.update(drawn[number - 1] for number in left if number and 0 not in left)
        print(f"{title:28s} {kept} of {len(images)}, edits kept {others}, in its place {dict(beaten)}", flush=True)
