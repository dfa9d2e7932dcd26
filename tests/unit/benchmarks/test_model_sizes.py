"""The benchmark of model sizes checks the models that it builds."""

from dataclasses import replace

import pytest

from benchmarks.model_sizes import CLIP_L, MODELS, T5_XXL, memory, num_parameters, num_values, on_meta, table


def test_denoisers_have_the_published_sizes() -> None:
    counts = {model.name: num_parameters(on_meta(model.parts[0])) for model in MODELS}
    assert counts == {
        "SD 1.5": 859_520_964,
        "SD 2.1": 865_910_724,
        "SDXL": 2_567_463_684,
        "SD3 medium": 2_028_328_000,
        "SD3.5 medium": 2_243_171_520,
        "SD3.5 large": 8_056_627_520,
        "FLUX.1 dev": 11_901_408_320,
    }


def test_a_number_that_is_not_the_published_one_is_named() -> None:
    parts = MODELS[0].parts[0], replace(CLIP_L, name="other", published="124 M")
    text, wrong = table([replace(MODELS[0], parts=parts)], rank=4)
    assert len(wrong) == 1 and "other" in wrong[0] and "123,060,480" in text


def test_a_public_figure_stands_for_what_is_rounded_to_it() -> None:
    assert replace(CLIP_L, published="2.6 B").published_range == pytest.approx((2.55e9, 2.65e9))
    assert replace(CLIP_L, published="1,234").published_range == (1234, 1234)
    assert all(part.source for model in MODELS for part in model.parts)


def test_memory_counts_a_shared_table_once_and_scales_of_rounded_weights() -> None:
    encoder = on_meta(T5_XXL)
    assert num_values(encoder) == num_parameters(encoder)
    found = memory(encoder)
    assert found["fp32"] == 2 * found["bf16"] == 4 * num_parameters(encoder)
    linear = num_parameters(encoder) - 32128 * 4096 - 32 * 64 - (2 * 24 + 1) * 4096  # table, positions, norms
    assert found["NF4"] == pytest.approx(linear * (1 / 2 + 1 / 64 + 1 / 4096) + 2 * (num_parameters(encoder) - linear))
