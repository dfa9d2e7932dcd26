"""Adapters of several layers, joined where a single file has one layer.

Query, key and value of diffusers' attention are three layers, but one layer in the files of other programs. Its outputs
are theirs in sequence, so their changes are stacked, which is exact for products B_i A_i of low rank, since

    [B_1 A_1]   [B_1  0 ] [A_1]
    [B_2 A_2] = [ 0  B_2] [A_2],

with the sum of the ranks.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from finetune.export.single_file import single_file_name, split_name
from finetune.models.family import ModelFamily, SingleFileLayer
from finetune.models.interfaces import Denoiser

Places = dict[str, SingleFileLayer]
"""Names of layers in `Network`, each with its position in one layer of the file, in order."""


def file_layers(family: ModelFamily, denoiser: Denoiser, names: Iterable[str]) -> dict[str, Places]:
    """Return the file's layers for the layers of these names. Two at the same place are refused."""
    found: dict[str, Places] = {}
    for name in names:
        part, module = split_name(name)
        place = family.single_file_layer(denoiser, module) if part == "denoiser" else SingleFileLayer(module)
        file_name = single_file_name(family, denoiser, part, module)
        own = found.setdefault(file_name, {})
        if any(other.place == place.place for other in own.values()):
            raise ValueError(
                f"export: {' and '.join((*own, name))} are both called {file_name} in the single file; see "
                "lora.targets."
            )
        own[name] = place
    return {key: dict(sorted(own.items(), key=lambda item: item[1].place)) for key, own in found.items()}


def is_unjoined(places: Places) -> bool:
    """Check whether the file has this layer unchanged."""
    return all(not place.sizes and not place.swapped for place in places.values())


def stacked(places: Places, changes: Mapping[str, Tensor]) -> Tensor:
    """Stack the layers' changes [outputs inputs] to that of the one layer. Missing ones are zero."""
    rows = {place.place: in_other_order(place, changes[name]) for name, place in places.items()}
    first = next(iter(places.values()))
    other = next(iter(rows.values()))
    pieces = [rows.get(number, other.new_zeros(size, *other.shape[1:])) for number, size in enumerate(first.sizes)]
    return torch.cat(pieces) if pieces else other


def block_diagonal(places: Places, factors: Sequence[Tensor]) -> Tensor:
    """Join left factors [outputs rank] to the one layer's, in order. It is [sum of outputs, sum of ranks]."""
    columns = [
        stacked({name: place}, {name: factor}) for (name, place), factor in zip(places.items(), factors, strict=True)
    ]
    return torch.cat(columns, dim=1)


def share(place: SingleFileLayer, change: Tensor) -> Tensor:
    """Cut the layer's part out of a change that `stacked` joined."""
    own = change.split(place.sizes)[place.place] if place.sizes else change
    return in_other_order(place, own)


def in_other_order(place: SingleFileLayer, rows: Tensor) -> Tensor:
    """Reorder outputs from diffusers' order to the file's, or back."""
    return torch.cat(rows.chunk(2)[::-1]) if place.swapped else rows
