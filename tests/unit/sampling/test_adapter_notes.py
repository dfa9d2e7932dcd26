import json

import pytest

from finetune.sampling.adapter_notes import DIFFUSERS_METADATA, diffusers_scale

NOTES = {"unet.r": 4, "unet.lora_alpha": 2, "unet.rank_pattern": {"^to_k": 8}, "unet.alpha_pattern": {"^to_k": 2.0}}


def noted(**fields: object) -> dict[str, str]:
    named = {f"unet.{name}": value for name, value in fields.items()}
    return {DIFFUSERS_METADATA: json.dumps(NOTES | named)}


def test_a_scale_is_alpha_over_rank_with_patterns() -> None:
    scale = diffusers_scale(noted())
    assert scale("unet.to_q") == 0.5 and scale("unet.to_k") == 0.25 and scale("text_encoder.q_proj") == 1
    assert diffusers_scale({})("unet.to_q") == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lora_alpha": "x"}, r"unet\.lora_alpha 'x', expected a number other than 0, so scales are not known"),
        ({"lora_alpha": 0}, "expected a number other than 0"),
        ({"lora_alpha": True}, "expected a number other than 0"),
        ({"r": 0}, r"unet\.r 0, expected"),
        ({"rank_pattern": None}, r"unet\.rank_pattern None, expected numbers by layer"),
        ({"alpha_pattern": {"to_q": "2"}}, r"unet\.alpha_pattern of to_q '2', expected"),
    ],
)
def test_a_damaged_note_is_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        diffusers_scale(noted(**fields))


@pytest.mark.parametrize("text", ["[1]", "nope", "3"])
def test_a_note_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=DIFFUSERS_METADATA):
        diffusers_scale({DIFFUSERS_METADATA: text})
