"""Captions from a captioner, in batches that fit in memory."""

import concurrent.futures
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from datasets_prep.captioners.base import HINT, Captioner, Kind, Result
from datasets_prep.captioners.cleaning import Fault, clean_result
from datasets_prep.captions.cache import JsonLinesCache
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.memory import is_out_of_memory, release_memory
from finetune.data.listing import Findings

MOST_FAILED_BATCHES = 3

FAULTS: dict[Fault, str] = {
    "refusal": "captions not used because the model refused",
    "loop": "captions in which the model repeated itself, cut before that or not used",
    "no end": "captions that did not end within captions.max_new_tokens, cut after the last whole sentence or not used",
    "nothing": "images for which the model wrote nothing",
    "data": "captions not used because the model wrote JSON or code",
}


@dataclass(frozen=True, slots=True)
class ImageToCaption:
    """An image to be described."""

    key: int
    source: str
    sha256: bytes
    hint: str = ""
    """The words of its name; replaces {hint} in captions.prompt."""


@dataclass(frozen=True, slots=True)
class Written:
    """A caption that a captioner wrote."""

    kind: Kind
    text: str


def write_captions(
    captioner: Captioner,
    config: CaptionsConfig,
    tasks: Sequence[ImageToCaption],
    load: Callable[[int], Image.Image],
    cache: JsonLinesCache,
    findings: Findings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, list[Written]]:
    """Write the captions of every image, by its key. They are in the order of captions.kinds; notes say why some are
    missing. `load` returns the upright RGB image; it runs in another thread, so decoding overlaps with captioning.
    `progress` receives the number of images done and the total. Results are cached without prefix and template, so
    changing these needs no new results; errors are not cached. Captions do not depend on the batch size except for
    rounding in the model (see `LocalCaptioner.identity`)."""
    identity = captioner.identity()
    host = _Host(captioner, config, identity, cache, findings)
    missing = [task for task in tasks if host.missing_kinds(task)]
    done = len(tasks) - len(missing)
    progress(done, len(tasks))
    if missing:
        captioner.load()
    for batch in _loaded(missing, load, config.max_side, captioner.batch_size, findings):
        host.describe(batch)
        done += len(batch)
        progress(min(done, len(tasks)), len(tasks))
    progress(len(tasks), len(tasks))
    return {task.key: host.captions(task) for task in tasks}


def unwritten(
    captioner: Captioner,
    config: CaptionsConfig,
    tasks: Sequence[ImageToCaption],
    cache: JsonLinesCache,
    findings: Findings,
) -> set[int]:
    """Return the keys of images on which the captioner failed."""
    host = _Host(captioner, config, captioner.identity(), cache, findings)
    return {task.key for task in tasks if host.missing_kinds(task)}


def final_captions(
    existing: Sequence[str], written: Sequence[str], mode: Literal["fill", "replace", "add"]
) -> tuple[str, ...]:
    """Combine an image's own captions with those written for it. With replace only the written ones remain; the source
    keeps the others. Without written ones the image keeps its own in every mode. With neither it has one empty
    caption."""
    chosen = {
        "fill": list(existing) or list(written),
        "replace": list(written) or list(existing),
        "add": [*existing, *written],
    }[mode]
    return tuple(dict.fromkeys(text for text in chosen if text.strip())) or ("",)


class _Host:
    """One captioner at work: its results and its batch limit."""

    def __init__(
        self, captioner: Captioner, config: CaptionsConfig, identity: str, cache: JsonLinesCache, findings: Findings
    ) -> None:
        self.captioner = captioner
        self.config = config
        self.cache = cache
        self.findings = findings
        self._identity = identity
        self._has_hint = HINT in (config.prompt or "")
        self._limit = captioner.batch_size
        self._num_failed_batches = 0

    def missing_kinds(self, task: ImageToCaption) -> list[Kind]:
        return [kind for kind in self.config.kinds if self._get(task, kind) is None]

    def _get(self, task: ImageToCaption, kind: Kind) -> Result | None:
        return self.cache.get(task.sha256, self._name(task), kind)

    def _name(self, task: ImageToCaption) -> str:
        if not self._has_hint:
            return self._identity
        return f"{self._identity}-{hashlib.sha256(task.hint.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

    def describe(self, batch: Sequence[tuple[ImageToCaption, Image.Image]]) -> None:
        for kind in self.config.kinds:
            asked = [(task, image) for task, image in batch if self._get(task, kind) is None]
            start, errors = 0, []
            while start < len(asked):
                part = asked[start : start + self._limit]
                results = self._results(part, kind)
                if results is None and len(part) > 1:
                    self._limit = (len(part) + 1) // 2
                    continue
                errors += self._keep(kind, [task for task, _ in part], results or [_NO_MEMORY])
                start += len(part)
            if asked:
                self._stop_where_all_fail(errors, len(asked))

    def _keep(self, kind: Kind, tasks: Sequence[ImageToCaption], results: Sequence[Result]) -> list[str]:
        """Cache the results, note the failures, return their errors."""
        described = list(zip(tasks, results, strict=True))
        failed = [(task, result.detail) for task, result in described if result.finish == "error"]
        for task, detail in failed:
            self.findings.warn("images that could not be captioned", f"{task.source} ({detail})")
        good = [(task, result) for task, result in described if result.finish != "error"]
        self.cache.put(kind, [(task.sha256, self._name(task), result) for task, result in good])
        return [detail for _, detail in failed]

    def _results(self, part: Sequence[tuple[ImageToCaption, Image.Image]], kind: Kind) -> list[Result] | None:
        """Run the captioner; None if memory did not suffice."""
        try:
            results = self.captioner.caption([image for _, image in part], kind, [task.hint for task, _ in part])
        except Exception as error:  # torch, onnxruntime and CUDA have no error in common
            if not is_out_of_memory(error):
                raise
            results = None  # the error holds the tensors of the attempt until this block is left
        if results is None:
            release_memory()
        elif len(results) != len(part):
            raise AssertionError(f"{self.captioner.name} gave {len(results)} results for {len(part)} images")
        return results

    def _stop_where_all_fail(self, errors: list[str], num_asked: int) -> None:
        self._num_failed_batches = self._num_failed_batches + 1 if len(errors) == num_asked else 0
        if self._num_failed_batches == MOST_FAILED_BATCHES:
            raise OSError(
                f"captions: {self.captioner.name} gave nothing but errors for {MOST_FAILED_BATCHES} batches, the last: "
                f"{errors[-1]}. What is written so far is kept. Mend that and run the same command again."
            )

    def captions(self, task: ImageToCaption) -> list[Written]:
        captions = []
        for kind in self.config.kinds:
            result = self._get(task, kind)
            if result is None:
                continue
            cleaned = clean_result(result, kind)
            if cleaned.fault is not None:
                self.findings.warn(FAULTS[cleaned.fault], task.source)
            if cleaned.text:
                text = self.config.prefix + self.config.template.replace("{caption}", cleaned.text)
                captions.append(Written(kind, text))
        return captions


_NO_MEMORY = Result("", 0, "error", "the memory does not suffice for even one; lower captions.max_side")


def _loaded(
    tasks: Sequence[ImageToCaption],
    load: Callable[[int], Image.Image],
    max_side: int,
    batch_size: int,
    findings: Findings,
) -> Iterator[list[tuple[ImageToCaption, Image.Image]]]:
    """Yield batches; the next is decoded while one is captioned."""

    def read(batch: Sequence[ImageToCaption]) -> list[tuple[ImageToCaption, Image.Image | str]]:
        return [(task, _shown(load, task.key, max_side)) for task in batch]

    batches = [tasks[start : start + batch_size] for start in range(0, len(tasks), batch_size)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read, batch) for batch in batches[:1]]
        for number in range(len(batches)):
            current, usable = waiting.pop().result(), []
            waiting.extend(pool.submit(read, following) for following in batches[number + 1 : number + 2])
            for task, image in current:
                if isinstance(image, str):
                    findings.warn("images that could not be opened for captioning", f"{task.source} ({image})")
                else:
                    usable.append((task, image))
            yield usable


def _shown(load: Callable[[int], Image.Image], key: int, max_side: int) -> Image.Image | str:
    """Scale an image down to the model's limit, or explain why not."""
    try:
        image = load(key)
    except (OSError, ValueError) as error:
        return str(error)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if max(image.size) <= max_side:
        return image
    scale = max_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
