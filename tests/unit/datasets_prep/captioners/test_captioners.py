import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from datasets_prep.captioners import Captioner, make_captioner
from datasets_prep.captioners.chat import Message, chat_prompt
from datasets_prep.captioners.florence2 import object_names
from datasets_prep.captioners.http import LONGEST_WAIT, HttpCaptioner, read_answer, wait_seconds
from datasets_prep.captioners.wd_tagger import spelled, tagger_input
from datasets_prep.config import CaptionsConfig
from tests.support.caption_server import CaptionServer, serving_captions
from tests.tiny.captioners import SAVED, TAGGER_SIDE, pictures, save_tagger

NO_HINTS = ["", "", ""]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("captioners")
    return {name: save(folder / name) for name, (_, save) in SAVED.items()}


def loaded(name: str, models: dict[str, Path], **options: Any) -> Captioner:
    options = {"max_new_tokens": 8} | options
    captioner = make_captioner(CaptionsConfig(captioner=SAVED[name][0], model=str(models[name]), **options))
    captioner.load()
    return captioner


@pytest.mark.parametrize("name", SAVED)
def test_three_images_get_three_captions_and_one_alone_the_same(name: str, models: dict[str, Path]) -> None:
    captioner = loaded(name, models)
    images = pictures()
    results = captioner.caption(images, "long", NO_HINTS)
    assert len({result.text for result in results}) > 1, "the captions do not depend on the image"
    assert all(result.text.strip() and result.finish == "length" and result.num_tokens == 8 for result in results)
    assert [captioner.caption([image], "long", [""])[0] for image in images] == results
    assert captioner.caption(images, "long", NO_HINTS) == results, "decoding is not greedy"


@pytest.mark.parametrize("name", SAVED)
def test_a_text_that_the_model_ends_has_stopped(name: str, models: dict[str, Path]) -> None:
    captioner: Any = loaded(name, models)
    texts = [result.text.split() for result in captioner.caption(pictures(), "long", NO_HINTS)]
    number = max(range(3), key=lambda number: len(set(texts[number])))
    image, words = pictures()[number], texts[number]
    place = next(place for place in range(1, len(words)) if words[place] not in words[:place])
    tokenizer = captioner._tokenizer if name.startswith("qwen") else captioner._processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(words[place])
    model = captioner._model
    for config in (model.generation_config, *([model.language_model.generation_config] if name == "blip2" else [])):
        config.eos_token_id = end
    if name == "blip":
        model.config.text_config.sep_token_id = end
    result = captioner.caption([image], "long", [""])[0]
    assert (result.finish, result.text.split()) == ("stop", words[:place])
    assert result.num_tokens >= place


@pytest.mark.parametrize("name", ["blip", "blip2", "qwen3_vl", "llava", "florence2"])
def test_the_prompt_changes_the_caption_and_the_identity(name: str, models: dict[str, Path]) -> None:
    plain, asked = loaded(name, models), loaded(name, models, prompt="a dog and a cat")
    image = pictures()[1]
    texts = [captioner.caption([image], "long", [""])[0].text for captioner in (plain, asked)]
    assert texts[0] != texts[1]
    assert plain.identity() != asked.identity()
    assert name != "blip" or texts[1].startswith("a dog and a cat ")


def test_the_kinds_have_prompts_of_their_own(models: dict[str, Path]) -> None:
    captioner = loaded("florence2", models)
    texts = {kind: captioner.caption(pictures(), kind, NO_HINTS) for kind in ("short", "long")}
    assert texts["short"] != texts["long"]


def test_the_objects_that_florence_finds_are_tags_each_once() -> None:
    places = "<loc_1><loc_20><loc_300><loc_999>"
    assert object_names(f"chair{places}coffee cup{places}chair{places}") == "chair, coffee cup"


def test_the_hint_stands_in_the_prompt(models: dict[str, Path]) -> None:
    captioner = loaded("qwen3_vl", models, prompt="a photo of {hint}")
    image = pictures()[0]
    results = captioner.caption([image, image], "long", ["dog", "sea"])
    assert results[0].text != results[1].text


def test_another_model_has_another_identity(models: dict[str, Path], tmp_path: Path) -> None:
    def identity(folder: Path, **options: Any) -> str:
        return make_captioner(CaptionsConfig(captioner="blip", model=str(folder), **options)).identity()

    copy = shutil.copytree(models["blip"], tmp_path / "copy")
    assert identity(copy) == identity(models["blip"]), "where the folder stands does not matter"
    assert identity(copy, dtype="float16") != identity(copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert identity(copy) != identity(models["blip"])


def test_a_model_that_lacks_a_weight_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["blip"], tmp_path / "blip")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    name = sorted(name for name in weights if name.endswith("bias"))[0]
    del weights[name]
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"captions\.model: .*lacks 1 weight .*{name}"):
        loaded("blip", {"blip": folder})


def test_large_files_are_distinguished_by_samples(tmp_path: Path) -> None:
    from datasets_prep.vision import model_files

    data = np.random.default_rng(0).integers(0, 256, model_files.WHOLE + 5, dtype=np.uint8)
    (tmp_path / "weights").write_bytes(data.tobytes())
    before = model_files.folder_hash(tmp_path)
    (tmp_path / "weights").write_bytes((data ^ 1).tobytes())
    assert model_files.folder_hash(tmp_path) != before


@pytest.mark.parametrize(
    ("captioner", "model", "words"),
    [
        ("blip", "owner/none", "hf download owner/none"),
        ("blip", "./nowhere", "not a folder"),
        ("blip", "{empty}", "no config.json"),
        ("llava", "{blip}", "type blip, expected llava"),
        ("blip", "{deep}", "is not JSON"),
        ("blip", "{list}", "type None, expected blip"),
        ("blip", "{broken}", "complete"),
    ],
)
def test_a_model_that_cannot_be_had_is_reported_in_a_sentence(
    captioner: Any, model: str, words: str, models: dict[str, Path], tmp_path: Path
) -> None:
    places = {name: tmp_path / name for name in ("empty", "broken", "deep", "list")}
    for place in places.values():
        place.mkdir()
    shutil.copy(models["blip"] / "config.json", places["broken"])
    (places["deep"] / "config.json").write_text("[" * 100_000)
    (places["list"] / "config.json").write_text("[]")
    captioner = make_captioner(CaptionsConfig(captioner, model=model.format_map(models | places)))
    with pytest.raises(ValueError, match=words) as found:
        captioner.load()
    assert str(found.value).startswith("captions.model: ")


@pytest.mark.parametrize(("captioner", "kinds"), [("blip", ("tags",)), ("blip2", ("tags",)), ("wd_tagger", ("long",))])
def test_kinds_that_a_captioner_cannot_write_are_refused_before_loading(captioner: Any, kinds: Any) -> None:
    with pytest.raises(ValueError, match=r"captions\.kinds"):
        make_captioner(CaptionsConfig(captioner=captioner, model="owner/model", kinds=kinds))


@pytest.mark.parametrize(("captioner", "prompt"), [("blip", "a {hint}"), ("florence2", "{hint}"), ("wd_tagger", "a")])
def test_prompts_that_a_captioner_cannot_follow_are_refused(captioner: Any, prompt: str) -> None:
    kinds: Any = ("tags",) if captioner == "wd_tagger" else ("short",)
    with pytest.raises(ValueError, match=r"captions\.prompt"):
        make_captioner(CaptionsConfig(captioner=captioner, model="owner/model", kinds=kinds, prompt=prompt))


@pytest.mark.parametrize("form", ["parts", "text with its own place", "text"])
def test_any_form_of_chat_template_gets_one_place_for_the_image(form: str) -> None:
    def render(messages: list[Message]) -> str:
        content: Any = messages[-1]["content"]
        if form == "parts":
            return "".join("<image>" if part["type"] == "image" else part["text"] for part in content)
        return ("<image>" if form == "text with its own place" else "") + f"USER {content}"

    text = chat_prompt(render, "Say it.", None, "<image>", "model")
    assert text.count("<image>") == 1 and text.count("Say it.") == 1


def test_a_chat_template_without_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="chat template"):
        chat_prompt(lambda messages: "hello", "Say it.", None, "<image>", "model")


def tagger(folder: Path, **options: Any) -> Captioner:
    pytest.importorskip("onnxruntime", reason="onnxruntime, the extra [tagger], is not installed")
    pytest.importorskip("onnx", reason="onnx, which writes the tiny tagger, is not installed")
    save_tagger(folder, fixed_batch=options.pop("fixed_batch", False))
    captioner = make_captioner(CaptionsConfig(captioner="wd_tagger", model=str(folder), kinds=("tags",), **options))
    captioner.load()
    return captioner


@pytest.mark.parametrize("fixed_batch", [False, True])
def test_the_tagger_names_tags_above_the_threshold_likeliest_first(tmp_path: Path, fixed_batch: bool) -> None:
    captioner = tagger(tmp_path / "tagger", fixed_batch=fixed_batch)
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "black")]
    texts = [result.text for result in captioner.caption(images, "tags", NO_HINTS)]
    assert texts == ["red theme, long hair, ^_^", "blue theme, long hair, ^_^", "long hair, ^_^"]


def test_the_threshold_is_part_of_what_captions_depend_on(tmp_path: Path) -> None:
    strict, usual = tagger(tmp_path / "a", threshold=0.5), tagger(tmp_path / "a")
    assert strict.caption([Image.new("RGB", (8, 8))], "tags", [""])[0].text == "long hair"
    assert strict.identity() != usual.identity()


def test_a_tall_image_is_on_a_white_square_with_blue_first() -> None:
    array = tagger_input(Image.new("RGB", (4, 16), (255, 0, 10)), TAGGER_SIDE)
    assert array.shape == (TAGGER_SIDE, TAGGER_SIDE, 3) and array.dtype == np.float32
    assert array[8, 0].tolist() == [255, 255, 255] and array[8, 8].tolist() == [10, 0, 255]


def test_underscores_become_spaces_but_in_faces() -> None:
    words = {"long_hair": "long hair", ">_<": ">_<", "o_o": "o_o", "6+girls": "6+girls", "x_(y)_abc": "x (y) abc"}
    assert {tag: spelled(tag) for tag in words} == words


def test_a_table_of_other_tags_than_the_model_has_is_refused(tmp_path: Path) -> None:
    captioner = tagger(tmp_path)
    (tmp_path / "selected_tags.csv").write_text("tag_id,name,category,count\n0,one,0,1\n")
    with pytest.raises(ValueError, match=r"names 1 tags, but model.onnx gives 6"):
        captioner.load()


@pytest.fixture
def server() -> Iterator[CaptionServer]:
    with serving_captions() as server:
        yield server


def client(server: CaptionServer, timeout_seconds: float = 5.0, num_tries: int = 4, **options: Any) -> HttpCaptioner:
    config = CaptionsConfig(captioner="http", url=server.url, model="tiny-vl", **options)
    return HttpCaptioner(config, timeout_seconds=timeout_seconds, num_tries=num_tries, first_wait=0.02)


def test_a_server_gets_image_and_prompt_and_its_answer_is_the_caption(server: CaptionServer) -> None:
    result = client(server, max_new_tokens=99).caption(pictures(1), "tags", [""])[0]
    assert (result.text, result.num_tokens, result.finish) == ("a red square", 3, "stop")
    body = server.requests[0]
    content = body["messages"][0]["content"]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny-vl", 99, 0)
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert "tags" in content[1]["text"]


def test_as_many_requests_are_in_flight_as_allowed(server: CaptionServer) -> None:
    server.together = threading.Barrier(3)
    results = client(server, requests_in_flight=3).caption(pictures(9), "long", [""] * 9)
    assert len(results) == 9 and server.most_in_flight == 3


def test_a_busy_and_a_failing_and_a_hanging_server_are_asked_again(
    server: CaptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.answers = [(429, {"Retry-After": "30"}), (500, {}), (503, {})]
    assert client(server).caption(pictures(1), "long", [""])[0].text == "a red square"
    assert waits == [30, 0.04, 0.08]
    server.num_hangs = 1
    assert client(server, timeout_seconds=0.2).caption(pictures(1), "long", [""])[0].text == "a red square"


def test_waits_grow_and_follow_the_server_up_to_a_limit() -> None:
    future, past = "Thu, 01 Jan 2099 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"
    waits = {(0, None): 0.5, (3, None): 4, (20, None): LONGEST_WAIT, (0, "soon"): 0.5, (0, past): 0.5}
    waits |= {(0, "30"): 30, (7, "30"): 64, (0, "9999"): LONGEST_WAIT, (0, future): LONGEST_WAIT}
    assert {asked: wait_seconds(0.5, *asked) for asked in waits} == waits


def test_an_image_that_the_server_cannot_do_costs_only_itself(server: CaptionServer) -> None:
    server.answers = [(400, {}), *[(200, {})] * 2]
    results = client(server, requests_in_flight=1).caption(pictures(), "long", NO_HINTS)
    assert [result.finish for result in results] == ["error", "stop", "stop"]
    assert "status 400" in results[0].detail and len(server.requests) == 3
    server.answers = [(500, {})] * 4
    assert "500 4 times" in client(server).caption(pictures(1), "long", [""])[0].detail
    server.num_hangs = 2
    assert "no answer within 0.2" in client(server, timeout_seconds=0.2).caption(pictures(1), "long", [""])[0].detail
    server.content = lambda request: None
    assert "without text" in client(server).caption(pictures(1), "long", [""])[0].detail
    assert "not a chat completion" in read_answer(b"[" * 100_000).detail


def test_a_server_that_is_not_there_is_reported_in_a_sentence(server: CaptionServer) -> None:
    server.url = "http://127.0.0.1:9/v1"
    with pytest.raises(OSError, match=r"no server answers at http://127.0.0.1:9/v1 .*Start it"):
        client(server, num_tries=2).caption(pictures(), "long", NO_HINTS)


def test_an_unknown_model_is_answered_with_those_that_there_are(server: CaptionServer) -> None:
    server.answers = [(404, {})]
    with pytest.raises(ValueError, match=r"knows no model tiny-vl .* offers tiny-vl"):
        client(server).caption(pictures(1), "long", [""])


def test_the_key_goes_to_the_server_and_nowhere_else(server: CaptionServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "s3cret\n")
    captioner = client(server, api_key_variable="TEST_KEY")
    captioner.caption(pictures(1), "long", [""])
    assert server.keys == ["Bearer s3cret"]
    assert "s3cret" not in captioner.identity() + captioner.name
    server.answers = [(401, {})]
    with pytest.raises(ValueError, match="environment variable TEST_KEY") as found:
        captioner.caption(pictures(1), "long", [""])
    assert "s3cret" not in str(found.value)
    server.answers = [(302, {"Location": "http://127.0.0.1:9/elsewhere"})]
    with pytest.raises(ValueError, match="status 302"):
        captioner.caption(pictures(1), "long", [""])


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://user:word@host/v1"])
def test_addresses_that_cannot_work_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"captions\.url") as found:
        make_captioner(CaptionsConfig(captioner="http", url=url, model="m"))
    assert "word@" not in str(found.value)
