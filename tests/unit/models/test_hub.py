"""Models of the Hub: a server that answers with the Hub's headers, and a cache in its layout; no network."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch

from tests.runs import Options, run

COMMIT = "1" * 40

LOAD = """
import json, sys
from finetune.models import family_named
from finetune.models.base import ModelSource
from finetune.models.loading import find_family

answers = []
for options in json.loads(sys.argv[1]):
    try:
        source = ModelSource(**options)
        family = family_named(find_family(source))
        components = family.load(source)
        answers.append(f"{type(components.denoiser).__name__} {components.denoiser.dtype}")
    except (ValueError, OSError) as error:
        answers.append(str(error))
print("ANSWERS" + json.dumps(answers))
"""


def load(cache: Path, *sources: dict[str, str | bool], **environment: str) -> list[str]:
    """Loads every source in one fresh process, since the libraries read these variables when they are imported."""
    settings = {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"} | environment
    ended = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(sources)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.rpartition("ANSWERS")[2])


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does: status and X-Error-Code."""

    refusals = {  # noqa: RUF012
        "gated": (403, "GatedRepo"),
        "unseen": (401, "RepoNotFound"),  # what a private and an absent model look like from outside
        "forbidden": (403, ""),
    }

    def do_HEAD(self) -> None:
        name, _, rest = self.path.removeprefix("/owner/").partition("/resolve/")
        revision = rest.partition("/")[0]
        if "/tree/" in self.path:  # asked by transformers for the list of a folder's files
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"[]")
        elif name in self.refusals:
            self.refuse(*self.refusals[name])
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        else:
            self.refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})

    do_GET = do_HEAD

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (({"X-Error-Code": code} if code else {}) | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def cached(model: Path, cache: Path, name: str) -> Path:
    """Puts a model into a cache as `hf download owner/NAME` does; returns its snapshot."""
    repository = cache / f"models--owner--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(COMMIT)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / COMMIT
    for number, file in enumerate(path for path in sorted(model.rglob("*")) if path.is_file()):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_refusal_of_the_hub_is_one_sentence_that_says_what_to_do(
    endpoint: str, tiny_model: Path, tmp_path: Path
) -> None:
    snapshot = cached(tiny_model, tmp_path / "cache", "half")
    shutil.rmtree(snapshot / "unet")
    gated, unseen, revision, no_index, part, forbidden = load(
        tmp_path / "cache",
        {"location": "owner/gated"},
        {"location": "owner/unseen"},
        {"location": "owner/open", "revision": "v9"},
        {"location": "owner/open"},
        {"location": "owner/half", "revision": COMMIT, "variant": "fp16"},
        {"location": "owner/forbidden"},
        HF_ENDPOINT=endpoint,
        HF_HUB_OFFLINE="0",
    )
    assert "owner/gated is gated. Accept its terms" in gated and "hf auth login" in gated
    assert "the Hub has no model owner/unseen, or it is private" in unseen and "hf auth login" in unseen
    assert "model.revision: owner/open has no revision v9" in revision
    assert "owner/open has no file model_index.json" in no_index
    assert "owner/half has no unet with safetensors weights of the variant fp16" in part
    assert "does not let you read owner/forbidden (403)" in forbidden
    for text in (gated, unseen, revision, no_index, part, forbidden):
        assert "\n" not in text


def test_a_cached_model_loads_offline_with_revision_and_variant(tiny_model: Path, tmp_path: Path) -> None:
    both = shutil.copytree(tiny_model, tmp_path / "both")
    for file in both.rglob("*.safetensors"):
        shutil.copyfile(file, file.with_suffix(".fp16.safetensors"))
    cached(both, tmp_path / "cache", "model")
    *loaded, revision, variant, absent = load(
        tmp_path / "cache",
        {"location": "owner/model"},
        {"location": "owner/model", "revision": "v1"},
        {"location": "owner/model", "revision": COMMIT, "variant": "fp16"},
        {"location": "owner/model", "revision": "v9"},
        {"location": "owner/model", "variant": "bf16"},
        {"location": "owner/absent"},
        HF_HUB_OFFLINE="1",
    )
    assert loaded == ["UNet2DConditionModel torch.float32"] * 3
    assert "HF_HUB_OFFLINE is set" in revision and "hf download owner/model --revision v9" in revision
    assert "owner/model" in variant and "HF_HUB_OFFLINE is set" in variant
    assert "no folder owner/absent is here" in absent and "hf download owner/absent" in absent


def test_a_cached_model_is_read_as_it_is_stored(tiny_model: Path, tmp_path: Path) -> None:
    both = shutil.copytree(tiny_model, tmp_path / "both")
    for file in both.rglob("*.safetensors"):
        weights = {name: value.half() for name, value in safetensors.torch.load_file(file).items()}
        safetensors.torch.save_file(weights, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    cached(both, tmp_path / "cache", "model")
    wide, narrow = load(
        tmp_path / "cache",
        {"location": "owner/model", "as_stored": True},
        {"location": "owner/model", "variant": "fp16", "as_stored": True},
        HF_HUB_OFFLINE="1",
    )
    assert (wide, narrow) == ("UNet2DConditionModel torch.float32", "UNet2DConditionModel torch.float16")


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    (answer,) = load(tmp_path / "cache", {"location": "a/b"}, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the Hub is not reached" in answer


@pytest.mark.parametrize("recipe", ["lora", "full", "dreambooth", "textual_inversion"])
def test_a_run_of_a_model_that_is_not_cached_ends_with_one_sentence(
    recipe: str, tiny_run: Options, tmp_path: Path
) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # as a user sets it, before the libraries are imported
    shared = ("data.resolution", "data.bucket_step", "data.folder", "cache.folder", "output.folder", "tracking.names")
    options: Options = {name: tiny_run[name] for name in shared} | {"model.source": "owner/not-cached"}
    options |= {"cache.folder": tmp_path / "cache", "train.steps": 1}
    options |= {
        "dreambooth": {"instance.prompt": "a photo of sks dog", "prior.prompt": "a photo of a dog"},
        "textual_inversion": {"tokens.names": "<ink>", "data.captions": "none", "data.template": "in <ink>"},
    }.get(recipe, {})
    ended = run(recipe, options, tmp_path / "log")
    assert ended.exit_code == 1, ended.output
    errors = ended.output[ended.output.index("error: ") :].strip()
    assert errors.startswith("error: model.source: no folder owner/not-cached is here") and "\n" not in errors
    assert "HF_HUB_OFFLINE is set" in errors and "hf download owner/not-cached" in errors
    assert "Traceback" not in ended.output and "Loading" not in ended.output and "Encoding" not in ended.output
    assert not (tmp_path / "cache").exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".lock"]
