"""Images of a subject and of its class, balanced (DreamBooth, arXiv 2208.12242)."""

import os
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from finetune.data.listing import ImageSource
from finetune.data.manifest import Manifest, Record
from finetune.plurals import plural

CLASS_PREFIX = "/class/"
"""No file name of a folder or dataset begins with a slash."""
TOLERANCE = 0.01


@dataclass(frozen=True)
class InstanceAndClass:
    """Two sources in one: class images, and everything else."""

    instance: ImageSource
    of_class: ImageSource

    def read(self, file_name: str) -> bytes:
        """Return an image's original bytes."""
        if file_name.startswith(CLASS_PREFIX):
            return self.of_class.read(file_name.removeprefix(CLASS_PREFIX))
        return self.instance.read(file_name)


def captioned(manifest: Manifest, prompt: str) -> Manifest:
    """Return the manifest with one caption for all but class images."""
    records = (each if is_class_image(each) else replace(each, captions=(prompt,)) for each in manifest.records)
    return replace(manifest, records=tuple(records))


def with_class_prompt(manifest: Manifest, prompt: str | None, weight: float) -> Manifest:
    """Set caption and weight of class images. None keeps their captions."""
    records = (
        replace(each, captions=each.captions if prompt is None else (prompt,), weight=each.weight * weight)
        if is_class_image(each)
        else each
        for each in manifest.records
    )
    return replace(manifest, records=tuple(records))


def with_class_images(
    instance: Manifest, of_class: Manifest, *, prompt: str | None, weight: float, held_out: Container[int]
) -> Manifest:
    """Merge both lists so instance and class samples are equally frequent.

    They are to within 1 %. Class images have the caption `prompt`, with None their own, and `weight` on their loss.
    `held_out` are the instance records kept for validation; class images are never held out, since a split of both
    would leave the balance to chance.

    The loss of a global batch is then half of equation 2 of arXiv 2208.12242 in the mean, with lambda = `weight`: half
    of the samples are of the instance, half of the class. Adam's step does not change with such a factor.
    """
    num_instance = sum(r.repeats for number, r in enumerate(instance.records) if number not in held_out)
    times_instance, times_class = balance(num_instance, sum(record.repeats for record in of_class.records))
    splits = any(number in held_out for number in range(len(instance.records)))
    records = [
        replace(
            record,
            repeats=record.repeats * times_instance,
            split=("validation" if number in held_out else "train") if splits else None,
        )
        for number, record in enumerate(instance.records)
    ]
    records += [
        replace(
            record,
            file_name=CLASS_PREFIX + record.file_name,
            captions=record.captions if prompt is None else (prompt,),
            weight=record.weight * weight,
            repeats=record.repeats * times_class,
            split="train" if splits else None,
        )
        for record in of_class.records
    ]
    records.sort(key=lambda record: os.fsencode(record.file_name))
    source = InstanceAndClass(instance.source, of_class.source)
    warnings = instance.warnings + of_class.warnings
    return replace(instance, records=tuple(records), source=source, warnings=warnings)


def balance(num_instance: int, num_class: int) -> tuple[int, int]:
    """Return the smallest repeats that make both counts equal within `TOLERANCE`. Equal counts need repeats up to the
    other count; the content of a batch would then be left to chance, and with primes of thousands a pass would have
    millions of entries."""
    if num_instance < 1 or num_class < 1:
        return 1, 1
    if num_instance > num_class:
        times_class, times_instance = balance(num_class, num_instance)
        return times_instance, times_class
    for times_class in range(1, num_instance + 1):
        times_instance = round(times_class * num_class / num_instance)
        if abs(times_instance * num_instance / (times_class * num_class) - 1) <= TOLERANCE:
            return times_instance, times_class
    raise AssertionError("num_instance class passes are as many as num_class instance passes")


@dataclass(frozen=True)
class Trained:
    """Numbers of dataset and class images, by repeats in a pass."""

    instance: dict[int, int]
    of_class: dict[int, int]

    @property
    def num_samples(self) -> int:
        """Number of samples in a pass."""
        return sum(repeats * num for counts in (self.instance, self.of_class) for repeats, num in counts.items())


def trained(records: Sequence[Record], held_out: Container[int]) -> Trained:
    """Count the records that are not held out."""
    kept = [record for number, record in enumerate(records) if number not in held_out]
    of_class = Counter(record.repeats for record in kept if is_class_image(record))
    return Trained(dict(Counter(record.repeats for record in kept) - of_class), dict(of_class))


def trained_captions(records: Sequence[Record], held_out: Container[int]) -> list[str]:
    """Return the captions of trained images that are not class images."""
    kept = [record for number, record in enumerate(records) if number not in held_out]
    return [caption for record in kept if not is_class_image(record) for caption in record.captions]


def is_class_image(record: Record) -> bool:
    """Tell class images from those of the dataset."""
    return record.file_name.startswith(CLASS_PREFIX)


def balance_text(records: Sequence[Record]) -> str:
    """Describe both counts and the instance's share of the samples."""
    trained = [record for record in records if record.split != "validation"]
    counts, samples = [0, 0], [0, 0]
    for record in trained:
        is_class = is_class_image(record)
        counts[is_class] += 1
        samples[is_class] += record.repeats
    share = samples[0] / max(sum(samples), 1)
    return (
        f"{counts[0]} instance and {plural(counts[1], 'class image')}; {share:.1%} of the samples are of the instance."
    )


def instance_images(records: Sequence[Record], held_out: Container[int]) -> tuple[tuple[Record, ...], set[int]]:
    """Return the records without class images, and which are held out."""
    kept = [(number, record) for number, record in enumerate(records) if not is_class_image(record)]
    places = {place for place, (number, _) in enumerate(kept) if number in held_out}
    return tuple(record for _, record in kept), places
