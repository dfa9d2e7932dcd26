from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.lora_files.layers import grouped
from finetune.lora_files.resize import ResizeOptions, resize
from finetune.lora_files.show import layers_of, show
from finetune.sampling.weight_changes import refuse_not_finite


def written(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    safetensors.torch.save_file(tensors, path, metadata or None)
    return path


def lora(name: str, down: str, up: str, rank: int = 4, *, wide: int = 8) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(rank)
    return {
        f"{name}.{down}": torch.randn(rank, wide, generator=noise),
        f"{name}.{up}": torch.randn(6, rank, generator=noise),
    }


def test_the_norm_is_that_of_the_whole_change() -> None:
    pieces = lora("lora_unet_a", "lora_down.weight", "lora_up.weight") | {"lora_unet_a.alpha": torch.tensor(2.0)}
    (layer,) = layers_of(pieces)
    change = pieces["lora_unet_a.lora_up.weight"] @ pieces["lora_unet_a.lora_down.weight"] * 2 / 4
    assert layer.norm == pytest.approx(change.norm().item(), rel=1e-5)
    assert (layer.kind, layer.rank, layer.alpha) == ("LoRA", 4, 2.0)


@pytest.mark.parametrize(
    ("name", "down", "up", "layout"),
    [
        ("lora_unet_down_blocks_0_attn", "lora_down.weight", "lora_up.weight", "sd-scripts"),
        ("unet.down_blocks.0.attn", "lora_A.weight", "lora_B.weight", "diffusers"),
        ("transformer.blocks.0.attn", "lora.down.weight", "lora.up.weight", "diffusers"),
        ("diffusion_model.blocks.0.attn", "lora_A.weight", "lora_B.weight", "the original model"),
        ("base_model.model.blocks.0.attn", "lora_A.style.weight", "lora_B.style.weight", "peft"),
        ("base_model.model.blocks.0.attn", "lora_A.default.weight", "lora_B.default.weight", "peft"),
    ],
)
def test_every_layout_is_named_with_its_readers(name: str, down: str, up: str, layout: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", lora(name, down, up), ss_steps="200", ss_sd_model_name="sd15")
    lines = show(path)
    assert f"that of {layout}," in lines[1] and "1 LoRA" in lines[2] and "rank: 4" in lines[3]
    assert lines[-1] == "  metadata: base model sd15; steps 200"


def test_damage_is_told(tmp_path: Path) -> None:
    pieces = lora("lora_unet_a", "lora_down.weight", "lora_up.weight")
    pieces |= lora("lora_unet_b", "lora_down.weight", "lora_up.weight", 2)
    pieces["lora_unet_a.lora_up.weight"].zero_()
    pieces["lora_unet_b.lora_up.weight"][0] = float("nan")
    text = "\n".join(show(written(tmp_path / "a.safetensors", pieces | {"unheard.of": torch.zeros(1)})))
    assert "1 layer without a change: lora_unet_a" in text and "1 layer not finite: lora_unet_b" in text
    assert "rank: 2 (2 to 4)" in text or "rank: 4 (2 to 4)" in text
    assert "not understood: 1 tensor: unheard.of" in text
    del pieces["lora_unet_a.lora_up.weight"]
    with pytest.raises(ValueError, match=r"lora_unet_a is not complete"):
        show(written(tmp_path / "b.safetensors", pieces))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_commands_refuse_numbers_that_are_not_finite(number: float, tmp_path: Path) -> None:
    pieces = lora("lora_unet_a", "lora_down.weight", "lora_up.weight")
    pieces["lora_unet_a.lora_up.weight"][0] = number
    path = written(tmp_path / "a.safetensors", pieces)
    words = r"1 tensor of 2 with NaN or infinite numbers: lora_unet_a\.lora_up\.weight.* Use an earlier file"
    with pytest.raises(ValueError, match=words):
        resize(ResizeOptions(path, tmp_path / "new.safetensors", rank=2))
    with pytest.raises(ValueError, match=words):
        grouped(path, pieces)
    with pytest.raises(ValueError, match=words):
        refuse_not_finite(path, {key: value.to(torch.float16) for key, value in pieces.items()})
    refuse_not_finite(path, {"a": torch.ones(2).to(torch.float8_e4m3fn), "b": torch.ones(2, dtype=torch.int64)})
    assert "1 layer not finite: lora_unet_a" in "\n".join(show(path)) and not (tmp_path / "new.safetensors").exists()


def test_layers_that_do_not_fit_are_named_where_ranks_change(tmp_path: Path) -> None:
    for number, (down, up) in enumerate(((torch.ones(0, 8), torch.ones(6, 0)), (torch.ones(4, 8), torch.ones(6, 3)))):
        pieces = {"lora_unet_a.lora_down.weight": down, "lora_unet_a.lora_up.weight": up}
        with pytest.raises(ValueError, match=r"lora_unet_a.*(rank of 0|is not complete)"):
            resize(ResizeOptions(written(tmp_path / f"{number}.safetensors", pieces), tmp_path / "new.safetensors", 2))
    pieces = lora("unet.a", "lora_A.weight", "lora_B.weight")
    path = written(tmp_path / "noted.safetensors", pieces, lora_adapter_metadata="not JSON")
    with pytest.raises(ValueError, match="lora_adapter_metadata is not JSON"):
        resize(ResizeOptions(path, tmp_path / "new.safetensors", 2))


def test_a_negative_alpha_turns_no_norm_negative(tmp_path: Path) -> None:
    pieces = lora("lora_unet_a", "lora_down.weight", "lora_up.weight")
    (plus,), (minus,) = (list(layers_of(pieces | {"lora_unet_a.alpha": torch.tensor(a)})) for a in (2.0, -2.0))
    assert plus.norm == minus.norm > 0


@pytest.mark.parametrize("down", [torch.ones(8), torch.tensor(1.0)])
def test_matrices_without_two_axes_are_not_complete(down: torch.Tensor, tmp_path: Path) -> None:
    pieces = {"lora_unet_a.lora_down.weight": down, "lora_unet_a.lora_up.weight": torch.ones(6, 4)}
    path = written(tmp_path / "a.safetensors", pieces)
    with pytest.raises(ValueError, match="lora_unet_a is not complete"):
        show(path)
    with pytest.raises(ValueError, match="lora_unet_a is not complete"):
        resize(ResizeOptions(path, tmp_path / "new.safetensors", rank=2))


@pytest.mark.parametrize(
    ("piece", "kind"),
    [("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("diff", "weight differences"), ("dora_scale", "DoRA")],
)
def test_resizing_other_kinds_names_the_way_out(piece: str, kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {f"lora_unet_a.{piece}": torch.ones(4, 8)})
    with pytest.raises(ValueError, match=rf"It has {kind}\. Merge it .*finetune lora extract MERGED BASE --rank N"):
        resize(ResizeOptions(path, tmp_path / "new.safetensors", rank=2))


def test_resizing_by_energy_gives_a_layer_without_a_change_rank_one(tmp_path: Path) -> None:
    pieces = lora("lora_unet_a", "lora_down.weight", "lora_up.weight") | {"lora_unet_a.alpha": torch.tensor(0.0)}
    new = resize(ResizeOptions(written(tmp_path / "a.safetensors", pieces), tmp_path / "b.safetensors", energy=0.9))
    assert safetensors.torch.load_file(new)["lora_unet_a.lora_down.weight"].shape == (1, 8)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 1 tensor and no adapters, e\.g\. weight"):
        show(written(tmp_path / "a.safetensors", {"weight": torch.zeros(2)}))
    (tmp_path / "b.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        show(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("emb_params", "an embedding of a new word, which is not read. finetune generate --embedding takes it"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "in the layout of XLabs, which is not read. diffusers"),
        ("lora_unet_a_to_q.oft_blocks", "an OFT adapter"),
        ("lora_unet_a_to_q.b1.weight", "a GLoRA"),
        ("lora_unet_a_to_q.on_input", "an IA3 adapter"),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole model, which is not read. finetune lora extract"),
        ("control_model.zero_convs.0.0.weight", "a ControlNet"),
        ("adapter.body.0.resnets.0.block1.weight", "a T2I adapter"),
        ("body.0.rdb1.conv1.weight", "an upscaler"),
        ("hyper.768.0.linear.0.weight", "a hypernetwork"),
        ("base_model.model.a.vera_lambda_b", "a VeRA adapter"),
        ("bundle_emb.sks.string_to_param.*", "a LoRA bundled with embeddings of new words"),
        ("lora_unet_a_norm.w_norm", "an adapter of norms"),
        ("diffusion_model.img_in.set_weight", "a file of weights to set"),
        ("base_model.vblora_vector_bank.default", "a VB-LoRA adapter"),
        ("base_model.model.a.vblora_logits_A", "a VB-LoRA adapter"),
        ("lora_unet_a.scale_weight", "a file of weights quantized with scales"),
        ("base_model.model.a.oft_R.weight", "an OFT or BOFT adapter of peft"),
        ("exp_avg.0", "the state of an optimizer"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", "a text encoder"),
        ("down_blocks.0.attentions.0.proj_in.weight", "the denoiser of a model"),
        ("transformer_blocks.0.attn.qkv.qweight", "Expected a file of LoRA"),
        ("decoder.conv_in.weight", "a VAE, which is not read. model.vae takes it"),
        ("something.else", "Expected a file of LoRA"),
    ],
)
def test_what_is_mistaken_for_a_lora_is_named(name: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", {name: torch.ones(2, 2)})
    with pytest.raises(ValueError, match=words):
        show(path)
    if not words.startswith("Expected"):
        kind = words.split(",")[0]
        with pytest.raises(ValueError, match=f"not a file of plain LoRA.*{kind}"):
            resize(ResizeOptions(path, tmp_path / "new.safetensors", rank=2))
        with pytest.raises(ValueError, match=f"expected those of LoRA.*{kind}"):
            grouped(path, {name: torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page. Download the file again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS. Fetch the file: git lfs pull"),
        (b"PK\x03\x04", "it is a pickle of torch"),
        (b'{"error": "Invalid credentials"}', "it is JSON, perhaps the answer of a site"),
        (b"", "it is empty. Copy or download it again"),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_is_not_safetensors_says_what_it_is(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        show(tmp_path / "x.safetensors")
