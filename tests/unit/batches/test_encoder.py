from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from finetune.batches.buckets import Bucket
from finetune.batches.dataset import Encoded, TrainingImages, latent_key, text_key
from finetune.batches.encoder import Encoder, images_together
from finetune.batches.fill_caches import build_caches, text_fingerprint
from finetune.batches.store import fingerprint
from finetune.batches.view import View
from finetune.config.sections import CacheConfig, DataConfig
from finetune.data.manifest import read_manifest
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline, save_pictures


@pytest.fixture(scope="module")
def components() -> Components:
    return new_components()


def new_components(seed: int = 0) -> Components:
    return components_of(build_pipeline(size="micro", seed=seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("pictures"), count=4, size=32)


def cached(
    components: Components,
    folder: Path,
    cache: Path,
    dtype: torch.dtype = torch.float32,
    *,
    shard_size: int = 256,
    max_gb: float | None = None,
) -> Encoded:
    manifest = read_manifest(str(folder))
    accelerator = Accelerator(cpu=True)
    encoder = Encoder(StableDiffusion(), components, accelerator.device, text_encoder_is_trained=False)
    buckets = [Bucket(32, 32, tuple(range(len(manifest.records))))]
    data = DataConfig(str(folder), resolution=32, bucket_step=16)
    images = TrainingImages(manifest.records, buckets, manifest.source, data)
    return build_caches(encoder, accelerator, images, CacheConfig(shard_size=shard_size, max_gb=max_gb), cache, dtype)


def shards(cache: Path) -> set[Path]:
    return set(cache.rglob("*.safetensors"))


def test_a_second_run_makes_nothing_again(components: Components, folder: Path, tmp_path: Path) -> None:
    cached(components, folder, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    cached(components, folder, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in shards(tmp_path)}


def test_a_folder_is_filled_up_to_its_limit(components: Components, folder: Path, tmp_path: Path) -> None:
    entry = 4 * components.vae.config.latent_channels * (32 // 4) ** 2
    with pytest.raises(ValueError, match=r"cache\.max_gb: got 1e-06, but .* holds 0 GB, and this run's latents are"):
        cached(components, folder, tmp_path, max_gb=1e-6)
    assert not shards(tmp_path)
    found = cached(components, folder, tmp_path, max_gb=(4 * entry + 1) / 1e9)
    assert found.latents and len(list((tmp_path / "latents").iterdir())) == 1
    cached(components, folder, tmp_path, max_gb=1e-6)  # adds nothing, so the limit does not matter


def test_another_scaling_factor_makes_other_latents_although_the_weights_are_equal(
    components: Components, folder: Path, tmp_path: Path
) -> None:
    other = new_components()
    other.vae.register_to_config(scaling_factor=0.13025)
    assert fingerprint(other.vae) == fingerprint(components.vae)
    one, two = (cached(these, folder, tmp_path) for these in (components, other))
    assert one.latents and two.latents
    (record, *_), view = read_manifest(str(folder)).records, View(32, 32, 0.5, 0.5, False)
    values = [
        store.read(latent_key(record, view, these.vae_fingerprint))["latents"]
        for store, these in ((one.latents, one), (two.latents, two))
    ]
    assert values[0].std() / values[1].std() == pytest.approx(0.18215 / 0.13025, rel=0.5)
    assert not torch.equal(*values)


def test_what_decides_embeddings_is_weights_activation_and_tokenizer(components: Components) -> None:
    active, padded, taught = (new_components() for _ in range(3))
    active.text_encoders[0].config.hidden_act = "relu"
    padded.tokenizers[0].pad_token = "!"
    taught.tokenizers[0].add_tokens(["reddish"])
    prints = [text_fingerprint(each) for each in (components, new_components(seed=1), active, padded, taught)]
    assert len(set(prints)) == len(prints)
    same = new_components()
    same.tokenizers[0](["a", "b c"], padding=True, truncation=True)  # leaves a state behind
    same.text_encoders[0].config.name_or_path = "elsewhere"
    assert text_fingerprint(same) == prints[0]


def test_another_number_format_makes_other_embeddings(components: Components, folder: Path, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        encoded = cached(components, folder, tmp_path, dtype)
        assert encoded.text
        assert encoded.text.read(text_key("", encoded.encoder_fingerprint, dtype))["embeddings"].dtype == dtype


def test_a_picture_that_cannot_be_decoded_is_told_by_its_name(tmp_path: Path, components: Components) -> None:
    folder = save_pictures(tmp_path / "pictures", count=3, size=32)
    path = folder / "0001.png"
    path.write_bytes(path.read_bytes()[:-20])  # the header that the manifest reads is whole
    with pytest.raises(ValueError, match=r"0001\.png"):
        cached(components, folder, tmp_path / "cache")


def test_a_torn_shard_is_removed_and_made_again_under_whatever_grouping(
    components: Components, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached(components, folder, tmp_path)
    torn = next((tmp_path / "latents").iterdir())
    torn.write_bytes(torn.read_bytes()[:100])
    cached(components, folder, tmp_path, shard_size=1)
    assert torn.name in capsys.readouterr().out
    assert not torn.exists() and len(list((tmp_path / "latents").iterdir())) == 4
    cached(components, folder, tmp_path)
    assert "warning" not in capsys.readouterr().out


def test_images_with_an_unusable_profile_and_blank_ones_are_counted(
    components: Components, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_pictures(tmp_path / "pictures", count=3, size=32)
    for name in ("0000.png", "0002.png"):
        with Image.open(folder / name) as image:
            image.load()
        image.save(folder / name, icc_profile=b"no profile")
    lines = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    lines.paste((255, 255, 255, 255), (8, 0, 10, 32))
    lines.save(folder / "0001.png")
    cached(components, folder, tmp_path / "cache")
    said = capsys.readouterr().out.splitlines()
    assert any("colour profile cannot be used (2): 0000.png" in line for line in said)
    assert any("one colour" in line and "(1): 0001.png" in line and "--background" in line for line in said)


def test_a_vae_that_overflows_in_fp16_encodes_in_float32(folder: Path, tmp_path: Path) -> None:
    """Norms behind the layer make its outputs small again, as SDXL's."""
    large = new_components()
    with torch.no_grad():
        for parameter in large.vae.encoder.conv_in.parameters():
            parameter.mul_(1e7)
    encoded = cached(large, folder, tmp_path, torch.float16)
    record = read_manifest(str(folder)).records[0]
    assert encoded.latents
    key = latent_key(record, View(32, 32, 0.5, 0.5, False), encoded.vae_fingerprint)
    latents = encoded.latents.read(key)["latents"]
    assert latents.dtype == torch.float32 and latents.isfinite().all()


def test_what_is_no_number_is_not_cached_and_named(folder: Path, tmp_path: Path) -> None:
    broken = new_components()
    with torch.no_grad():
        broken.vae.encoder.conv_out.bias.fill_(float("nan"))
    words = r"the latents of the image \S+\.png are not finite numbers .*another checkpoint"
    with pytest.raises(ValueError, match=words):
        cached(broken, folder, tmp_path)
    assert not shards(tmp_path)
    large = new_components()
    with torch.no_grad():
        large.text_encoders[0].final_layer_norm.bias.fill_(1e6)  # too large for what captions are kept in
    words = r'embeddings of the caption ".*" are not finite numbers .*mixed_precision bf16'
    with pytest.raises(ValueError, match=words):
        cached(large, folder, tmp_path, torch.float16)
    cached(large, folder, tmp_path, torch.bfloat16)


def test_a_gpu_encodes_fewer_images_together_the_larger_they_are() -> None:
    sizes = {(256, 256): 8, (512, 512): 8, (768, 512): 5, (1024, 1024): 2, (2048, 1024): 1, (4096, 4096): 1}
    assert {size: images_together(*size) for size in sizes} == sizes
