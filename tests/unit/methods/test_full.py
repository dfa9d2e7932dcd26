import pytest

from finetune.config.optim import OptimConfig
from finetune.config.recipes import FullConfig
from finetune.methods.full import Full, trained_names
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Network
from tests.tiny.sd import build_pipeline


def network(*, text_encoder: bool = False) -> Network:
    pipeline = build_pipeline(size="micro")
    return Network(StableDiffusion(), pipeline.unet, [pipeline.text_encoder] if text_encoder else [])


def attached(config: FullConfig, *, text_encoder: bool = False) -> dict[str, bool]:
    model = network(text_encoder=text_encoder)
    Full(config).attach(model, seed=0)
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def test_without_patterns_everything_trains() -> None:
    assert all(attached(FullConfig(), text_encoder=True).values())


def test_patterns_choose_and_take_away() -> None:
    trains = attached(FullConfig(train=("attn2", r"^denoiser\.conv_out"), freeze=(r"denoiser\.down_blocks",)))
    for name, value in trains.items():
        chosen = "attn2" in name or name.startswith("denoiser.conv_out")
        assert value == (chosen and not name.startswith("denoiser.down_blocks")), name
    assert 0 < sum(trains.values()) < len(trains)


def test_layers_of_the_text_encoder_keep_their_own_rate() -> None:
    model = network(text_encoder=True)
    method = Full(FullConfig(freeze=("embeddings", r"text_encoders\.0\..*layers\.0\.")))
    method.attach(model, seed=0)
    denoiser, text = method.param_groups(model, OptimConfig(lr=1e-3, text_encoder_lr=1e-5))
    assert (denoiser.lr, text.lr) == (1e-3, 1e-5)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(denoiser.parameters) + len(text.parameters)
    text_names = [name for name in trained if name.startswith("text_encoders.")]
    assert text_names and not any("embeddings" in name or ".layers.0." in name for name in text_names)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (FullConfig(train=("attn3",)), r'full\.train: "attn3" matches no weight'),
        (FullConfig(freeze=("down_blocks", "text_encoders")), r'full\.freeze: "text_encoders" matches no weight'),
        (FullConfig(train=("attn2",), freeze=("attn",)), "leaves none"),
        (FullConfig(freeze=(".",)), "leaves none"),
    ],
)
def test_patterns_that_match_or_leave_nothing_are_refused(config: FullConfig, words: str) -> None:
    names = [name for name, _ in network().named_parameters()]
    with pytest.raises(ValueError, match=words):
        trained_names(names, config)


def test_a_text_encoder_that_is_all_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.text_encoder"):
        attached(FullConfig(train=("denoiser",)), text_encoder=True)
