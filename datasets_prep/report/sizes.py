"""The report's part about training sizes: how many pictures each takes, and what is cut away from them."""

from collections.abc import Sequence

from datasets_prep.records import BucketRow, Prepared
from datasets_prep.report.bounded import Least, Places
from datasets_prep.report.pieces import Row, Thumbnail, Thumbnails, bar, card, number_of, strip, thumbnail_html
from finetune.data.images.decode import crop_loss
from finetune.report.page import nothing

MOST_LOSSES = 24
MOST_EXAMPLES = 6
LEAST_LOSS = 0.02
"""Share of a picture from which it is worth a look."""


class Losses:
    """Finds the pictures that lose most to their training size while their rows go by."""

    def __init__(self) -> None:
        self._least = Least(MOST_LOSSES)

    def add(self, place: int, row: Row) -> None:
        """Notes a row of metadata.jsonl."""
        loss = _loss(row)
        if loss >= LEAST_LOSS:
            self._least.add(-loss, place)

    def html(self, kept: Sequence[Row], thumbnails: Thumbnails) -> str:
        """Returns them with what is cut away."""
        cards = []
        for row in (kept[place] for place in self._least.places()):
            crop = crop_html(thumbnails.of(str(row["source"])), _bucket_of(row)) or thumbnail_html(None)
            cards.append(card(row, f'<span class="box">{crop}</span>', [f"<b>{100 * _loss(row):.1f} %</b> cut away"]))
        return f'<div class="card"><h3>Most cut away</h3>{strip(cards)}</div>' if cards else ""


def buckets(prepared: Prepared, losses: Losses, places: Places, thumbnails: Thumbnails) -> str:
    """Returns the training sizes with what each cuts away, and the pictures that lose most."""
    if not prepared.buckets:
        return nothing("No training sizes.")
    most = max(bucket.num_pictures for bucket in prepared.buckets) or 1
    ordered = sorted(prepared.buckets, key=lambda bucket: (bucket.width / bucket.height, bucket.width))
    lines = "".join(_bucket(bucket, most, places, thumbnails) for bucket in ordered)
    head = '<tr><th>size</th><th class="right">pictures</th><th class="share"></th><th class="right">cut away</th>'
    head += '<th class="right">enlarged</th><th>examples with what stays</th></tr>'
    table = f'<div class="card wide"><table class="figures bars sizes">{head}{lines}</table></div>'
    return table + losses.html(prepared.kept, thumbnails)


def _bucket(bucket: BucketRow, most: int, places: Places, thumbnails: Thumbnails) -> str:
    scale = 26 / max(bucket.width, bucket.height)
    icon = f'<i class="shape" style="width:{bucket.width * scale:.0f}px;height:{bucket.height * scale:.0f}px"></i>'
    size = (bucket.width, bucket.height)
    examples = bucket.examples[:MOST_EXAMPLES]
    is_kept = places.of(examples) >= 0
    crops = [crop_html(thumbnails.of(source), size) for source, kept in zip(examples, is_kept, strict=True) if kept]
    return (
        f'<tr><td class="nowrap">{icon}{bucket.width} × {bucket.height}</td>'
        f'<td class="right">{bucket.num_pictures:,}</td>{bar(bucket.num_pictures / most)}'
        f'<td class="right">{100 * bucket.crop_loss_mean:.1f} %</td><td class="right">{bucket.num_upscaled:,}</td>'
        f'<td><div class="crops">{"".join(crops)}</div></td></tr>'
    )


def crop_html(thumbnail: Thumbnail | None, size: tuple[int, int]) -> str:
    """Returns the thumbnail with a frame round what a picture of that size shows of it, cut in the middle."""
    if thumbnail is None:
        return ""
    wanted, own = size[0] / size[1], thumbnail.width / thumbnail.height
    across, down = max(0.0, 1 - wanted / own) * 50, max(0.0, 1 - own / wanted) * 50
    return thumbnail_html(thumbnail, f'<b style="inset:{down:.1f}% {across:.1f}%"></b>', is_fitted=True)


def _loss(row: Row) -> float:
    """The share of a picture that its training size cuts away, 0 where that is not known."""
    width, height, bucket = int(number_of(row, "width")), int(number_of(row, "height")), _bucket_of(row)
    return round(crop_loss(width, height, *bucket), 4) if min(width, height, *bucket) > 0 else 0.0


def _bucket_of(row: Row) -> tuple[int, int]:
    bucket = row.get("bucket")
    return (bucket[0], bucket[1]) if isinstance(bucket, list | tuple) and len(bucket) == 2 else (0, 0)
