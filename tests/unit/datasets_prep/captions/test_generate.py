import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets_prep.captioners import make_captioner
from datasets_prep.captioners.base import Kind, Result
from datasets_prep.captioners.cleaning import clean_result, is_refusal, loop_start, stripped
from datasets_prep.captions.cache import JsonLinesCache
from datasets_prep.captions.generate import ImageToCaption, Written, final_captions, write_captions
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.memory import is_out_of_memory
from finetune.data.listing import Findings
from tests.tiny.captioners import pictures as tiny_pictures
from tests.tiny.captioners import save_qwen3_vl


class Colours:
    """A captioner without a model, which names the first pixel."""

    name = "colours"

    def __init__(self, batch_size: int = 4, memory: int = 100) -> None:
        self.batch_size = batch_size
        self.memory = memory
        self.batches: list[int] = []
        self.num_loads = 0
        self.texts: dict[str, Result] = {}

    def identity(self) -> str:
        return "colours-1"

    def load(self) -> None:
        self.num_loads += 1

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        self.batches.append(len(images))
        if len(images) > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        names = [
            f"{kind} {image.getpixel((0, 0))} {image.size} {hint}".strip()
            for image, hint in zip(images, hints, strict=True)
        ]
        return [self.texts.get(name, Result(name, 5, "stop")) for name in names]


def image_of(key: int) -> Image.Image:
    return Image.new("RGB", (10, 10), (key, 0, 0))


def asked(count: int) -> list[ImageToCaption]:
    return [ImageToCaption(key, f"{key}.png", bytes([key]) * 32, f"hint {key}") for key in range(count)]


def run(
    captioner: Any, folder: Path, count: int = 7, load: Any = image_of, **options: Any
) -> tuple[dict[int, list[Written]], str]:
    findings = Findings()
    cache = JsonLinesCache(folder / "captions.jsonl", findings)
    config = CaptionsConfig(captioner="blip", model="m", **{"kinds": ("short",)} | options)
    try:
        written = write_captions(captioner, config, asked(count), load, cache, findings)
    finally:
        cache.close()
    return written, "\n".join(findings.warnings)


def test_every_image_gets_its_captions_in_the_order_of_the_kinds(tmp_path: Path) -> None:
    written, notices = run(Colours(), tmp_path, kinds=("tags", "short"))
    assert list(written) == list(range(7)) and notices == ""
    assert written[3] == [Written("tags", "tags (3, 0, 0) (10, 10) hint 3"), written[3][1]]
    assert written[3][1] == Written("short", "short (3, 0, 0) (10, 10) hint 3")


def test_batches_are_halved_until_they_fit_and_stay_so(tmp_path: Path) -> None:
    captioner = Colours(batch_size=8, memory=2)
    written, notices = run(captioner, tmp_path, count=12)
    assert captioner.batches == [8, 4, 2, 2, 2, 2, 2, 2]
    assert written == run(Colours(), tmp_path / "other", count=12)[0] and notices == ""


def test_an_image_that_never_fits_gets_no_caption_and_is_counted(tmp_path: Path) -> None:
    written, notices = run(Colours(batch_size=2, memory=0), tmp_path, count=2)
    assert written == {0: [], 1: []}
    assert "could not be captioned (2)" in notices and "captions.max_side" in notices
    assert run(Colours(), tmp_path, count=2)[0][0] != [], "errors are not kept"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        Exception("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 99"),
        type("OutOfMemoryError", (RuntimeError,), {})("no more"),
    ],
)
def test_every_library_s_way_of_being_out_of_memory_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    captioner = Colours()
    captioner.caption = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes"):
        run(captioner, tmp_path)


def test_nothing_but_errors_ends_the_run(tmp_path: Path) -> None:
    captioner = Colours(batch_size=2)
    captioner.caption = lambda images, kind, hints: [Result("", 0, "error", "status 400") for _ in images]  # type: ignore
    with pytest.raises(OSError, match="status 400"):
        run(captioner, tmp_path)


def test_what_is_written_is_not_asked_for_again_and_the_prefix_may_change(tmp_path: Path) -> None:
    run(Colours(), tmp_path, count=3)
    second = Colours()
    written, _ = run(second, tmp_path, count=5, prefix="ink: ", template="{caption}, on paper")
    assert second.batches == [2]
    assert written[0][0].text == "ink: short (0, 0, 0) (10, 10) hint 0, on paper"
    third = Colours()
    run(third, tmp_path, count=5)
    assert third.batches == [] and third.num_loads == 0


def test_a_stopped_run_continues_with_the_same_batches(tmp_path: Path) -> None:
    class Noted(Colours):
        def __init__(self, calls: list[list[str]], most_calls: int) -> None:
            super().__init__()
            self.calls = calls
            self.most_calls = most_calls

        def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
            if len(self.batches) == self.most_calls:
                raise KeyboardInterrupt
            results = super().caption(images, kind, hints)
            self.calls.append([result.text for result in results])
            return results

    whole: list[list[str]] = []
    run(Noted(whole, 99), tmp_path / "whole", count=11, kinds=("short", "tags"))
    stopped: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        run(Noted(stopped, 3), tmp_path / "stopped", count=11, kinds=("short", "tags"))
    run(Noted(stopped, 99), tmp_path / "stopped", count=11, kinds=("short", "tags"))
    assert stopped == whole and len(whole) == 6


def test_hints_are_distinguished_only_where_the_prompt_uses_them(tmp_path: Path) -> None:
    def renamed(prompt: str | None) -> list[int]:
        captioner = Colours()
        findings = Findings()
        cache = JsonLinesCache(tmp_path / f"{prompt}.jsonl", findings)
        config = CaptionsConfig(captioner="blip", model="m", kinds=("short",), prompt=prompt)
        for hint in ("one", "two"):
            write_captions(captioner, config, [ImageToCaption(0, "0.png", b"0", hint)], image_of, cache, findings)
        cache.close()
        return captioner.batches

    assert renamed(None) == [1]
    assert renamed("about {hint}") == [1, 1]


def test_images_are_shown_at_max_side_and_loaded_one_batch_ahead(tmp_path: Path) -> None:
    threads = set()

    def load(key: int) -> Image.Image:
        threads.add(threading.current_thread().name)
        return Image.new("RGBA", (400, 100), (key, 0, 0, 255))

    written, _ = run(Colours(), tmp_path, load=load, max_side=40)
    assert "(40, 10)" in written[2][0].text
    assert len(threads) == 1 and threading.current_thread().name not in threads


def test_an_image_that_cannot_be_opened_is_counted(tmp_path: Path) -> None:
    def load(key: int) -> Image.Image:
        if key == 1:
            raise OSError("gone")
        return image_of(key)

    written, notices = run(Colours(), tmp_path, load=load)
    assert written[1] == [] and len(written[0]) == 1
    assert "1.png (gone)" in notices


def test_refusals_and_loops_are_counted_and_not_used(tmp_path: Path) -> None:
    captioner = Colours()
    name = "short ({}, 0, 0) (10, 10) hint {}"
    captioner.texts = {
        name.format(0, 0): Result("I'm sorry, but I can't describe this image.", 9, "stop"),
        name.format(1, 1): Result("A cat on a mat. It is is is is is is is is is is is", 9, "length"),
        name.format(2, 2): Result("and so on and so on and so on and so on and so on", 9, "length"),
        name.format(3, 3): Result("A dog. It runs along the", 9, "length"),
        name.format(4, 4): Result(" \n", 0, "stop"),
    }
    written, notices = run(captioner, tmp_path)
    assert [[each.text for each in written[key]] for key in range(5)] == [[], ["A cat on a mat."], [], ["A dog."], []]
    for words in ("refused (1): 0.png", "repeated itself, cut before that or not used (2): 1.png, 2.png", "(1): 3.png"):
        assert words in notices
    assert "wrote nothing (1): 4.png" in notices


def test_a_tiny_model_gives_the_same_captions_at_any_batch_size(tmp_path: Path) -> None:
    model = save_qwen3_vl(tmp_path / "model")
    images = tiny_pictures(5)
    texts = []
    for batch_size in (1, 2, 5):
        config = CaptionsConfig(
            captioner="qwen_vl", model=str(model), batch_size=batch_size, max_new_tokens=6, kinds=("tags", "short")
        )
        findings = Findings()
        cache = JsonLinesCache(tmp_path / f"{batch_size}.jsonl", findings)
        texts.append(write_captions(make_captioner(config), config, asked(5), images.__getitem__, cache, findings))
        cache.close()
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("written", "kind", "text"),
    [
        ('"A dog on grass."', "long", "A dog on grass."),
        ("“A dog” and “a cat”", "long", "“A dog” and “a cat”"),
        ("A dog\n\n  on\tgrass.<|im_end|>", "long", "A dog on grass."),
        ("Sure! Here is a caption: A dog.", "long", "A dog."),
        ("Caption: A dog.", "long", "A dog."),
        ("The image shows a dog.", "long", "The image shows a dog."),
        ("<think>Is it a cat?</think>\nA dog.", "long", "A dog."),
        ("A **red** dog.", "long", "A red dog."),
        ("Tags: dog, grass, dog,  red   ball.", "tags", "dog, grass, red ball"),
        ("<think>a</think>\n\nSure!\nHere are the tags:\n- dog,\n- red ball\n", "tags", "dog, red ball"),
        ("Here lies a dog: it sleeps.", "long", "Here lies a dog: it sleeps."),
        ("very very very red house", "short", "very very very red house"),
    ],
)
def test_the_caption_is_freed_from_what_is_around_it(written: str, kind: Any, text: str) -> None:
    assert clean_result(Result(written, 9, "stop"), kind).text == text


REFUSALS = ("I'm sorry, but I can't assist with that.", "I’m sorry, I cannot describe people.", "I cannot help.")
REFUSALS += ("As an AI language model, I see nothing.", "I am unable to view images.", "There is no image attached.")
REFUSALS += ("Unfortunately, I can't see it",)
OTHERS = ("A sorry-looking dog", "I see a dog", "An AI robot stands in a hall", "A sign says I cannot", "As an artist")


def test_refusals_are_known_and_other_captions_are_none() -> None:
    assert [text for text in REFUSALS if not is_refusal(text)] == [text for text in OTHERS if is_refusal(text)] == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a dog and a dog and a dog and a dog and", "a dog and"),
        ("One. " + "The man wears a red hat. " * 3, "One. The man wears a red hat."),
        ("天空很蓝。" * 4, "天空很蓝。"),
        ("red, blue, green, red and blue stripes", None),
        ("the dog, the cat, the bird and the boat", None),
    ],
)
def test_a_loop_is_found_behind_its_first_round(text: str, kept: str | None) -> None:
    start = loop_start(text, is_whole=True)
    assert (None if start is None else text[:start].strip()) == kept


def test_enumerations_are_loops_only_where_they_do_not_end() -> None:
    text = "".join(f"The man is wearing a {colour} hat, " for colour in ("red", "blue", "green", "grey", "black"))
    assert loop_start(text, is_whole=True) is None
    start = loop_start(text, is_whole=False)
    assert start is not None and text[:start].startswith("The man is wearing a red hat")


def test_looping_tags_are_each_used_once_and_the_last_cut_one_not() -> None:
    cleaned = clean_result(Result("dog, cat, " * 6 + "do", 9, "length"), "tags")
    assert (cleaned.text, cleaned.fault) == ("dog, cat", "loop")
    cleaned = clean_result(Result("dog, cat, hou", 9, "length"), "tags")
    assert (cleaned.text, cleaned.fault) == ("dog, cat", "no end")


@pytest.mark.parametrize("kind", ["long", "tags"])
def test_what_no_file_can_hold_is_dropped_and_white_space_is_a_space(kind: Any) -> None:
    answer = json.loads(r'"\u0000A d\u0007og\ud83d on\tgr\u009fass \u001b\ude00😀\u0085in\u000bMay\ud83d"')
    text = clean_result(Result(answer, 9, "stop"), kind).text
    assert text.encode().decode().replace(", ", " ") == "A dog on grass 😀 in May"


def test_nothing_but_what_no_file_can_hold_is_not_a_caption() -> None:
    cleaned = clean_result(Result("\0\ud83d \x07", 3, "stop"), "long")
    assert (cleaned.text, cleaned.fault) == ("", "nothing")


@pytest.mark.parametrize("kind", ["long", "tags"])
@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("!!!!", "nothing"),
        ("!" * 40, "nothing"),
        (" ., ", "nothing"),
        ("dog dog dog", "loop"),
        ('{"caption": "a dog", "score": 1}', "data"),
        ('```json\n{"caption": "a dog"}\n```', "data"),
        ('["a dog", "a cat"]', "data"),
        ('Here is the caption: {"text": "a dog"}', "data"),
    ],
)
def test_noise_and_json_are_not_captions(answer: str, fault: str, kind: Any) -> None:
    cleaned = clean_result(Result(answer, 9, "stop"), kind)
    assert (cleaned.text, cleaned.fault) == ("", fault)


def test_a_tag_on_each_line_is_not_a_loop() -> None:
    tags = [f"tag{letter}" for letter in "abcdefghij"]
    cleaned = clean_result(Result(",\n".join(tags), 40, "stop"), "tags")
    assert (cleaned.text, cleaned.fault) == (", ".join(tags), None)


def test_an_unfinished_thought_is_not_a_caption() -> None:
    assert clean_result(Result("<think>It may be a dog. It may", 9, "length"), "long").text == ""
    assert stripped("") == ""


@pytest.mark.parametrize(
    ("mode", "existing", "written", "final"),
    [
        ("fill", ("own",), ("new",), ("own",)),
        ("fill", (), ("new", "tags"), ("new", "tags")),
        ("fill", (), (), ("",)),
        ("replace", ("own",), ("new",), ("new",)),
        ("replace", ("own",), (), ("own",)),
        ("replace", (), (), ("",)),
        ("add", ("own",), ("new", "own"), ("own", "new")),
        ("add", (), (" ",), ("",)),
    ],
)
def test_human_captions_are_lost_only_where_replaced(mode: Any, existing: Any, written: Any, final: Any) -> None:
    assert final_captions(existing, written, mode) == final


def test_a_torn_line_is_counted_and_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    cache = JsonLinesCache(path, Findings())
    for number in range(3):
        cache.put("long", [(b"a" * 32, f"id{number}", Result(f"text \n\ud800 {number} ü", number, "stop"))])
    cache.close()
    path.write_bytes(b'{"picture": 7}\n\xff\n' + b"[" * 100_000 + b"\n" + path.read_bytes()[:-20])
    findings = Findings()
    cache = JsonLinesCache(path, findings)
    assert cache.get(b"a" * 32, "id1", "long") == Result("text \n\ud800 1 ü", 1, "stop")
    assert cache.get(b"a" * 32, "id2", "long") is None
    assert "whose captions are written again (4): line 1, line 2, line 3, line 6" in findings.warnings[0]
    cache.put("tags", [(b"b" * 32, "id2", Result("new", 1, "length")), (b"c" * 32, "id2", Result("newer", 1, "stop"))])
    assert cache.get(b"b" * 32, "id2", "tags") == Result("new", 1, "length")
    cache.close()
    cache = JsonLinesCache(path, Findings())
    assert cache.get(b"b" * 32, "id2", "tags") == Result("new", 1, "length")
    assert cache.get(b"c" * 32, "id2", "tags") == Result("newer", 1, "stop")
    assert cache.get(b"b" * 32, "id2", "long") is None
    cache.close()


def test_a_later_line_wins(tmp_path: Path) -> None:
    cache = JsonLinesCache(tmp_path / "new folder" / "captions.jsonl", Findings())
    for text in ("first", "second"):
        cache.put("long", [(b"a", "id", Result(text, 1, "stop"))])
    assert cache.get(b"a", "id", "long") == Result("second", 1, "stop")
    cache.close()
