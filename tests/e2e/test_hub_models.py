"""Models of a stand-in for the Hub, and of its cache. No network is used."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
from huggingface_hub.errors import RepositoryNotFoundError

from finetune.models.family import ModelSource
from finetune.models.loading.hub import hub_advice
from tests.support.http_server import QuietHandler, serving
from tests.support.runs import Options, refused
from tests.tiny.flux import save_pipeline as save_flux_pipeline
from tests.tiny.sd import build_pipeline

COMMIT = "1" * 40

LOAD = """
import json, sys, time
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family

time.sleep = lambda seconds: None  # huggingface_hub tries again after 1, 2, 4 and 8 s
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
    """Load every source in one new process. The libraries read these variables when they are imported."""
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


class Hub(QuietHandler):
    """A server like huggingface.co: status, headers and X-Error-Code. Models are the subfolders of `folder`."""

    refusals = {  # noqa: RUF012
        "gated": (403, "GatedRepo"),
        "unseen": (401, "RepoNotFound"),  # what a private and an absent model look like from outside
        "forbidden": (403, ""),
    }
    folder = Path()
    sent: list[str] = []  # noqa: RUF012
    """The files that were downloaded, as owner/NAME would have them."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/models").removeprefix("/owner/")
        name, question, revision, *rest = path.split("/", 3)
        model = self.folder / name
        if name in self.refusals:
            self.refuse(*self.refusals[name])
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif question == "revision":
            self.answer({"id": f"owner/{name}", "sha": COMMIT})
        elif question == "tree":
            files = sorted(path for path in model.rglob("*") if path.is_file())
            self.answer(
                [
                    {"type": "file", "oid": "0" * 40, "size": file.stat().st_size, "path": str(file.relative_to(model))}
                    for file in files
                ]
            )
        elif (file := model / "".join(rest)).is_file():
            self.give(file)
        else:
            self.refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, value: object) -> None:
        self.send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def give(self, file: Path) -> None:
        name = str(file.relative_to(self.folder))
        if self.command == "GET":
            self.sent.append(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": hashlib.sha1(name.encode()).hexdigest()}
        self.send(200, headers, file.read_bytes())

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send(status, ({"X-Error-Code": code} if code else {}) | (headers or {}))


@dataclass(frozen=True)
class Served:
    address: str
    folder: Path
    sent: list[str]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Served]:
    folder, sent = tmp_path / "hub", []
    kind = type("OwnHub", (Hub,), {"folder": folder, "sent": sent})
    with serving(kind) as address:
        yield Served(address, folder, sent)


def cached(model: Path, cache: Path, name: str) -> Path:
    """Put a model into a cache as `hf download` does. Return its snapshot."""
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


def with_half(folder: Path, *, parts: tuple[str, ...] = ("*",)) -> Path:
    for part in parts:
        for file in folder.glob(f"{part}/*.safetensors"):
            stem, *rest = file.name.removesuffix(".safetensors").partition("-")
            weights = {name: value.half() for name, value in safetensors.torch.load_file(file).items()}
            safetensors.torch.save_file(
                weights, file.with_name(f"{stem}.fp16{''.join(rest)}.safetensors"), metadata={"format": "pt"}
            )
        for file in folder.glob(f"{part}/*.index.json"):
            index = json.loads(file.read_text())
            index["weight_map"] = {
                key: re.sub("-", ".fp16-", name, count=1) for key, name in index["weight_map"].items()
            }
            file.with_name(f"{file.name.removesuffix('.json')}.fp16.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "model"
    build_pipeline(size="micro").save_pretrained(folder, max_shard_size="40KB")
    assert all(len(list((folder / part).glob("*-of-*.safetensors"))) > 1 for part in ("unet", "vae", "text_encoder"))
    return folder


def test_a_refusal_of_the_hub_is_one_sentence_that_says_what_to_do(hub: Served, shards: Path, tmp_path: Path) -> None:
    half = with_half(shutil.copytree(shards, hub.folder / "half"))
    shutil.rmtree(half / "unet")
    shutil.copytree(shards, hub.folder / "pickled")
    for file in (hub.folder / "pickled" / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    gated, unseen, revision, no_index, part, variant, pickled, forbidden = load(
        tmp_path / "cache",
        {"location": "owner/gated"},
        {"location": "owner/unseen"},
        {"location": "owner/half", "revision": "v9"},
        {"location": "owner/open"},
        {"location": "owner/half", "revision": COMMIT, "variant": "fp16"},
        {"location": "owner/half", "variant": "bf16"},
        {"location": "owner/pickled"},
        {"location": "owner/forbidden"},
        HF_ENDPOINT=hub.address,
        HF_HUB_OFFLINE="0",
    )
    assert "owner/gated is gated. Accept its terms" in gated and "hf auth login" in gated
    assert "the Hub has no model owner/unseen, or it is private" in unseen and "hf auth login" in unseen
    assert "model.revision: owner/half has no revision v9" in revision
    assert "owner/open has no file model_index.json" in no_index
    assert "owner/half has no unet with safetensors weights of the variant fp16" in part
    assert "owner/half has no weights of the variant bf16. Use one that it has (fp16)" in variant
    assert "owner/pickled has no vae with safetensors weights." in pickled
    assert "does not let you read owner/forbidden (403)" in forbidden
    for text in (gated, unseen, revision, no_index, part, variant, pickled, forbidden):
        assert "\n" not in text
    assert not [name for name in hub.sent if name.startswith(("half/unet", "pickled/vae"))]


@pytest.mark.slow
def test_of_a_model_on_the_hub_only_what_is_read_is_downloaded_and_then_read_offline(
    hub: Served, shards: Path, tmp_path: Path
) -> None:
    """Other variants, libraries' weights and unused parts are not downloaded."""
    unread = ["whole.safetensors", "unet/diffusion_pytorch_model.bin", "text_encoder/model.onnx", "unet/flax.msgpack"]
    unread += ["safety_checker/model.safetensors", "vae/own.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors"]
    for name in ("plain", "half"):
        model = with_half(shutil.copytree(shards, hub.folder / name), parts=("unet", "text_encoder"))
        for file in map(model.joinpath, unread):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x" * 64)
    sources: list[dict[str, str | bool]] = [{"location": "owner/plain"}, {"location": "owner/half", "variant": "fp16"}]
    online = load(tmp_path / "cache", *sources, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0")
    assert online == ["UNet2DConditionModel torch.float32"] * 2
    assert len(hub.sent) == len(set(hub.sent)) and not {*unread} & {name.partition("/")[2] for name in hub.sent}
    weights = [name for name in hub.sent if "safetensors" in name and "/vae/" not in name]
    assert {(name.partition("/")[0], ".fp16" in name) for name in weights} == {("plain", False), ("half", True)}
    sent = len(hub.sent)
    assert load(tmp_path / "cache", *sources, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1") == online
    assert len(hub.sent) == sent


@pytest.mark.slow
def test_a_cached_model_loads_offline_with_revision_and_variant(shards: Path, tmp_path: Path) -> None:
    with_half(shutil.copytree(shards, tmp_path / "both"))
    cached(tmp_path / "both", tmp_path / "cache", "model")
    half = with_half(shutil.copytree(shards, tmp_path / "half"))
    for file in [*half.rglob("*.safetensors"), *half.rglob("*.index.json")]:
        if ".fp16" not in file.name:
            file.unlink()
    cached(half, tmp_path / "cache", "half")
    torn = cached(shards, tmp_path / "cache", "torn")
    next((torn / "vae").glob("*-00002-of-*")).unlink()
    shutil.copytree(shards / "vae", tmp_path / "vae")
    cached(tmp_path / "vae", tmp_path / "cache", "vae")
    cached(save_flux_pipeline(tmp_path / "flux"), tmp_path / "cache", "flux")
    flux, wide, narrow, *loaded, gap, revision, variant, absent, no_vae = load(
        tmp_path / "cache",
        {"location": "owner/flux"},
        {"location": "owner/model", "as_stored": True},
        {"location": "owner/model", "variant": "fp16", "as_stored": True},
        {"location": "owner/model"},
        {"location": "owner/model", "revision": "v1"},
        {"location": "owner/model", "revision": COMMIT, "variant": "fp16"},
        {"location": "owner/half"},
        {"location": "owner/torn", "vae": "owner/vae"},
        {"location": "owner/torn"},
        {"location": "owner/model", "revision": "v9"},
        {"location": "owner/model", "variant": "bf16"},
        {"location": "owner/absent"},
        {"location": "owner/model", "vae": "owner/absent"},
        HF_HUB_OFFLINE="1",
    )
    assert flux == "FluxTransformer2DModel torch.float32" and loaded == ["UNet2DConditionModel torch.float32"] * 5
    assert (wide, narrow) == ("UNet2DConditionModel torch.float32", "UNet2DConditionModel torch.float16")
    assert no_vae.startswith("model.vae: ") and "owner/absent" in no_vae and "HF_HUB_OFFLINE is set" in no_vae
    assert "HF_HUB_OFFLINE is set" in gap and "missing: vae/diffusion_pytorch_model-00002-of-" in gap
    assert "HF_HUB_OFFLINE is set" in revision and "hf download owner/model --revision v9" in revision
    assert "owner/model" in variant and "HF_HUB_OFFLINE is set" in variant
    assert "no folder owner/absent is here" in absent and "hf download owner/absent" in absent
    assert "--include '*/*.bf16*.safetensors' --exclude 'safety_checker/*'" in variant
    assert "--include '*/*.safetensors' --exclude '*/*.*.safetensors'" in absent


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
    output = refused(recipe, options, tmp_path / "log")
    errors = output[output.index("error: ") :].strip()
    assert errors.startswith("error: model.source: no folder owner/not-cached is here") and "\n" not in errors
    assert "HF_HUB_OFFLINE is set" in errors and "hf download owner/not-cached" in errors
    assert "Loading" not in output and "Encoding" not in output
    assert not (tmp_path / "cache").exists()
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".lock", "run.log"}


def test_a_model_that_is_gone_from_the_hub_is_told_where_its_files_are() -> None:
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # its answer of the server is not looked at
    advice = hub_advice(error, ModelSource("runwayml/stable-diffusion-v1-5"), "parts")
    assert advice is not None and "Use stable-diffusion-v1-5/stable-diffusion-v1-5" in advice
    assert "has no model owner/other" in str(hub_advice(error, ModelSource("owner/other"), "parts"))
