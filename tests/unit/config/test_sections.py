import inspect
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from datasets_prep.config import PrepConfig
from finetune.config.checks import problems
from finetune.config.facts import Option, options, values
from finetune.config.inpaint import InpaintConfig
from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.config.mask import MaskConfig
from finetune.config.optim import OptimConfig
from finetune.config.outputs import OutputConfig, PreviewConfig, ValidationConfig
from finetune.config.parse.dump import with_options
from finetune.config.pretrain import PretrainConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig, TextualInversionTrainConfig, TokensConfig
from finetune.config.sections import CacheConfig, DataConfig, LoopConfig, ModelConfig
from finetune.config.tracking import TrackingConfig

GIVEN = ModelConfig("model"), DataConfig("pictures"), OutputConfig(Path("out"))
GOOD = LoRATrainConfig(*GIVEN)


def test_the_defaults_are_accepted_by_every_recipe() -> None:
    for kind in (LoRATrainConfig, FullTrainConfig):
        kind(*GIVEN)


# One unusable value for every option that has unusable ones: section, its values, a word of the message.
WRONG: list[tuple[str, Any, str]] = [
    ("model", ModelConfig(""), "model.source"),
    ("data", DataConfig(""), "data.folder"),
    ("data", DataConfig("x", resolution=4), "data.resolution"),
    ("data", DataConfig("x", bucket_step=0), "data.bucket_step"),
    ("data", DataConfig("x", resolution=500), "data.bucket_step"),
    ("data", DataConfig("x", max_aspect=0.5), "data.max_aspect"),
    ("data", DataConfig("x", caption_dropout=1.1), "data.caption_dropout"),
    ("data", DataConfig("x", template="ink style"), "data.template"),
    ("data", DataConfig("x", keep_tags=1), "data.keep_tags"),
    ("loss", LossConfig(snr_gamma=0), "loss.snr_gamma"),
    ("loss", LossConfig(weighting="none", snr_gamma=3.0), "loss.snr_gamma"),
    ("loss", LossConfig(weighting="p2", snr_gamma=3.0), "loss.snr_gamma"),
    ("loss", LossConfig(p2_gamma=0.5), "loss.p2_gamma"),
    ("loss", LossConfig(weighting="debiased", p2_k=2.0), "loss.p2_k"),
    ("loss", LossConfig(weighting="p2", p2_k=0), "loss.p2_k"),
    ("loss", LossConfig(huber_c=0.2), "loss.huber_c"),
    ("loss", LossConfig(huber_schedule="constant"), "loss.huber_schedule"),
    ("loss", LossConfig(error="huber", huber_c=0), "loss.huber_c"),
    ("loss", LossConfig(error="huber", huber_c=1.5), "--loss.huber_schedule constant"),
    ("loss", LossConfig(pyramid_noise=1.0), "loss.pyramid_noise"),
    ("loss", LossConfig(min_timestep=600, max_timestep=500), "loss.max_timestep"),
    ("inpaint", InpaintConfig(whole_share=1.5), "inpaint.whole_share"),
    ("mask", MaskConfig("file", outside_weight=1.5), "mask.outside_weight"),
    ("mask", MaskConfig("file", outside_weight=1.0), "a mask does nothing"),
    ("mask", MaskConfig("alpha", folder=Path("masks")), "mask.folder"),
    ("mask", MaskConfig(prior_weight=1), "mask.kind"),
    ("optim", OptimConfig(lr=0), "optim.lr"),
    ("optim", OptimConfig(lr=float("inf")), "optim.lr"),
    ("optim", OptimConfig(name="prodigy", lr=1.0, weights="bf16_kahan"), "optim.weights"),
    ("optim", OptimConfig(name="adamw_schedule_free", in_backward=True), "optim.in_backward"),
    ("train", LoopConfig(ema_device="cpu"), "train.ema_device"),
    ("optim", OptimConfig(beta1=1.0), "optim.beta1"),
    ("optim", OptimConfig(final_lr_ratio=2), "optim.final_lr_ratio"),
    ("optim", OptimConfig(name="adamw_schedule_free", schedule="cosine"), "optim.schedule"),
    ("train", LoopConfig(ema_decay=1.0), "train.ema_decay"),
    ("validation", ValidationConfig(fraction=1.0), "validation.fraction"),
    ("preview", PreviewConfig(guidance_scale=float("nan")), "preview.guidance_scale"),
    ("tracking", TrackingConfig(names=("wandb", "wandb")), "tracking.names"),
    ("output", OutputConfig(Path("out"), name="a/b"), "output.name"),
    ("output", OutputConfig(Path("out"), name=""), "output.name"),
    ("output", OutputConfig(Path("runs/ink:2")), "--output.name"),  # <lora:ink:2:1> names another file in A1111
    ("output", OutputConfig(Path("/")), "--output.name"),
    ("output", OutputConfig(Path("pytorch_lora_weights")), "pytorch_lora_weights"),
    ("lora", LoRAConfig(alpha=0), "lora.alpha"),
    ("lora", LoRAConfig(dropout=1.0), "lora.dropout"),
    ("tokens", TokensConfig(names=("<Ink>",)), "lower-case"),
    ("tokens", TokensConfig(names=("<ink style>",)), "without spaces"),
    ("tokens", TokensConfig(names=("<ink,style>",)), "commas"),
    ("tokens", TokensConfig(names=("<>",)), "letters or digits"),
    ("tokens", TokensConfig(names=("",)), "tokens.names"),
    ("tokens", TokensConfig(names=("<ink>", "<ink>")), "is part of"),
    ("tokens", TokensConfig(names=("<ink>_1", "<ink>")), "is part of"),
    ("tokens", TokensConfig(names=("<ink>", "[ink]")), "ink.safetensors"),
    ("tokens", TokensConfig(names=("<ink>",), init=("red", "blue")), "tokens.init"),
    ("tokens", TokensConfig(names=("<ink>",), init=(" ",)), "tokens.init"),
    ("tokens", TokensConfig(init=("red",)), "tokens.init"),
    ("tokens", TokensConfig(names=("<ink>",), lr=0), "tokens.lr"),
    ("tokens", TokensConfig(lr=1e-3), "without tokens.names"),
    ("tokens", TokensConfig(num_vectors=2), "without tokens.names"),
]


@pytest.mark.parametrize(
    ("section", "value", "word"), WRONG, ids=[f"{word}-{n}" for n, (_, _, word) in enumerate(WRONG)]
)
def test_an_unusable_value_is_refused_by_name(section: str, value: Any, word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(word)):
        replace(GOOD, **{section: value})


COUNTS = ("data.num_crops", "data.num_shuffles", "cache.shard_size", "inpaint.num_masks", "loss.nearest_noise")
COUNTS += ("train.steps", "train.batch_size", "train.accumulation", "train.log_every", "train.timeout_seconds")
COUNTS += ("validation.num_timesteps", "preview.every", "preview.num_seeds", "preview.num_inference_steps")
COUNTS += ("preview.size", "checkpoint.every", "checkpoint.keep", "lora.rank", "tokens.num_vectors")


@pytest.mark.parametrize("key", COUNTS)
def test_counts_begin_at_one(key: str) -> None:
    with pytest.raises(ValueError, match=rf"(?m)^{key}: got 0, expected 1 or more"):
        with_options(GOOD, {key: 0})


@pytest.mark.parametrize("option", [o for o in options(LoRATrainConfig) if {int, float} & {o.hint, *get_args(o.hint)}])
def test_every_number_has_bounds(option: Option) -> None:
    value = (-2.0,) if get_origin(option.hint) is tuple else -2
    if option.key in ("loss.logit_mean", "preview.guidance_scale"):
        assert with_options(GOOD, {option.key: value})
    else:
        with pytest.raises(ValueError, match=rf"(?m)^{option.key}: got -2(\.0)?, expected"):
            with_options(GOOD, {option.key: value})


IN_BACKWARD = OptimConfig(in_backward=True)
TRAINED_TEXT: dict[str, Any] = {"train": LoopConfig(text_encoder=True), "cache": CacheConfig(text=False)}

# Options that contradict each other: what to set, and the option that the message must name.
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"train": LoopConfig(text_encoder=True)}, "cache.text"),
    ({"train": LoopConfig(max_grad_norm=1.0), "optim": IN_BACKWARD}, "train.max_grad_norm: .*--train.max_grad_norm 0"),
    ({"train": LoopConfig(max_grad_norm=0, accumulation=2), "optim": IN_BACKWARD}, "train.accumulation"),
    ({"optim": OptimConfig(text_encoder_lr=1e-5)}, "optim.text_encoder_lr"),
    ({"optim": OptimConfig(warmup_steps=10), "train": LoopConfig(steps=10)}, "optim.warmup_steps"),
    ({"optim": OptimConfig(name="prodigy", lr=1e-4)}, "optim.lr"),
    (TRAINED_TEXT | {"optim": OptimConfig(name="prodigy", lr=1.0, text_encoder_lr=0.5)}, "optim.text_encoder_lr"),
    ({"optim": OptimConfig(name="prodigy", lr=1.0), "tokens": TokensConfig(names=("<ink>",), lr=1e-3)}, "tokens.lr"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
]


@pytest.mark.parametrize(("changes", "word"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=rf"(?m)^{word}"):
        replace(GOOD, **changes)


def test_textual_inversion_needs_a_token_and_trains_nothing_else() -> None:
    with pytest.raises(ValueError, match=r"tokens.names: missing"):
        TextualInversionTrainConfig(*GIVEN)
    tokens, train = TokensConfig(names=("<ink>",)), LoopConfig(text_encoder=True)
    assert TextualInversionTrainConfig(*GIVEN, tokens=tokens).optim.lr == 5e-4
    with pytest.raises(ValueError, match=r"recipes.lora"):
        TextualInversionTrainConfig(*GIVEN, tokens=tokens, train=train, cache=CacheConfig(text=False))


def test_a_template_without_the_caption_is_for_pictures_without_captions() -> None:
    assert list(DataConfig("x", template="a drawing in the style of <ink>", captions="none").problems()) == []


def test_a_folder_of_any_name_is_accepted_with_a_name_for_the_model() -> None:
    assert replace(GOOD, output=OutputConfig(Path("runs/ink:2"), name="ink 2")).output.export_name == "ink 2"


def test_the_numbers_of_the_chosen_weighting_and_error_are_accepted() -> None:
    for loss in (
        LossConfig(snr_gamma=3.0),
        LossConfig(weighting="soft_min_snr", snr_gamma=3.0),
        LossConfig(weighting="p2", p2_gamma=0.5, p2_k=2.0),
        LossConfig(error="huber", huber_c=2.0, huber_schedule="constant"),
        LossConfig(error="huber", huber_c=0.3, huber_schedule="exponential"),
        LossConfig(min_timestep=500, max_timestep=500),
    ):
        assert replace(GOOD, loss=loss).loss == loss


def test_validation_measures_the_same_whatever_training_does_with_errors_noise_and_timesteps() -> None:
    kept = LossConfig(prediction_type="v_prediction", zero_terminal_snr=True, weighting="p2", p2_k=2.0)
    errors = {"error": "huber", "huber_c": 0.3, "huber_schedule": "exponential"}
    noise = {"offset_noise": 0.1, "pyramid_noise": 0.5, "input_perturbation": 0.1, "nearest_noise": 4}
    shaped = replace(kept, **errors, **noise, min_timestep=10, max_timestep=900, timestep_bias="style")
    assert shaped.plain() == kept and problems(shaped.plain(), "loss") == []


def test_all_problems_are_named_at_once_each_on_a_line() -> None:
    with pytest.raises(ValueError) as caught:
        LoRATrainConfig(
            ModelConfig(""),
            DataConfig("x", num_crops=0),
            OutputConfig(Path("out")),
            train=LoopConfig(steps=0, text_encoder=True),
            lora=LoRAConfig(rank=0),
            seed=-1,
        )
    lines = str(caught.value).splitlines()
    for start in ("model.source", "data.num_crops", "train.steps", "cache.text", "lora.rank", "seed"):
        assert sum(line.startswith(f"{start}: ") for line in lines) == 1, (start, lines)


SECRETS = ("hf_" + "a1B2" * 9, "0123456789abcdef" * 2 + "01234567", "sk-" + "x" * 30, "wandb_v1_" + "k" * 40)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("place", ["model.source", "tracking.run_name", "tracking.tags", "preview.prompts"])
def test_a_value_that_holds_an_access_token_is_refused_without_repeating_it(secret: str, place: str) -> None:
    section, _, name = place.partition(".")
    text = f"https://user:{secret}@example.com"
    value = (text,) if place in ("tracking.tags", "preview.prompts") else text
    with pytest.raises(ValueError, match=f"{place}: holds an access token") as caught:
        replace(GOOD, **{section: replace(vars(GOOD)[section], **{name: value})})
    assert secret not in str(caught.value)


def test_the_users_own_token_is_recognised_whatever_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "my-own-odd-key")
    with pytest.raises(ValueError, match="access token"):
        replace(GOOD, model=ModelConfig("model", revision="my-own-odd-key"))


def test_commits_are_no_tokens() -> None:
    commit = "451f4fe16113bfa5e9d60d93e5c3c2ad9b54d0ea"
    for source in ("owner/name", f"/home/me/.cache/huggingface/hub/models--a--b/snapshots/{commit}"):
        replace(GOOD, model=ModelConfig(source, revision=commit))


def test_every_option_has_a_line_of_help() -> None:
    """A field's docstring is its help text; sections need none."""
    sections = [value for item in fields(GOOD) if is_dataclass(value := vars(GOOD)[item.name])]
    sections += [value for section in sections for value in vars(section).values() if is_dataclass(value)]
    for section in sections:
        source = Path(inspect.getfile(type(section))).read_text(encoding="utf-8")
        for item in [item for item in fields(section) if not is_dataclass(vars(section)[item.name])]:
            after = source.split(f"class {type(section).__name__}", 1)[1].split(f"\n    {item.name}: ", 1)[1]
            assert after.split("\n", 2)[1].startswith('    """'), (type(section).__name__, item.name)


def test_options_walks_all_sections() -> None:
    found = dict(values(GOOD))
    assert found["model.source"] == "model" and found["lora.rank"] == 16 and found["seed"] == 0
    assert "model" not in found


def test_a_prior_is_refused_where_all_weights_are_trained_and_masks_in_pretraining() -> None:
    with pytest.raises(ValueError, match=r"mask\.prior_weight.*no base model"):
        FullTrainConfig(*GIVEN, mask=MaskConfig("alpha", prior_weight=1))
    with pytest.raises(ValueError, match=r"mask\.kind.*pretraining"):
        PretrainConfig(*GIVEN[1:], mask=MaskConfig("alpha"))
    assert LoRATrainConfig(*GIVEN, mask=MaskConfig("alpha", prior_weight=1)).mask.prior_weight == 1


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8",
        "github_pat_" + "a1B2c3D4e5_" * 4,
        "glpat-" + "a1B2c3D4e5" * 2,
        "AKIA" + "ABCDEFGH23456789",
        "xoxb-" + "1234567890-abcdef",
        "hf_" + "a1B2c3D4e5" * 3,
        "sk-proj-" + "a1B2_c3D4e5" * 3,
        "https://user:a-password@host/model",
        "s3://:secret@bucket/model",
    ],
)
def test_tokens_and_passwords_of_many_kinds_are_refused_without_being_repeated(text: str) -> None:
    source = f"before/{text}"
    for name, make in {
        "model.source": lambda: replace(GOOD, model=ModelConfig(source)),
        "model.variant": lambda: replace(GOOD, model=ModelConfig("model.safetensors", variant=source)),
        "source": lambda: PrepConfig((source,), Path("out")),
    }.items():
        with pytest.raises(ValueError, match=rf"(?m)^{name}: holds an access token or password") as caught:
            make()
        assert text not in str(caught.value)


@pytest.mark.parametrize("text", ["https://host:8000/v1", "sks@home: 3:1", "ask-a-question-about-a-dog", "C:/x"])
def test_what_only_resembles_a_token_is_kept(text: str) -> None:
    assert replace(GOOD, model=ModelConfig("m", variant=text)).model.variant == text
    assert PrepConfig((text,), Path("out")).source == (text,)
