import pytest
import torch
from torch import Tensor

from finetune.sampling.weight_changes import change_of, changed_weight


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def test_lora_without_alpha_has_the_scale_one() -> None:
    up, down = normal(6, 2), normal(2, 5, seed=1)
    pieces = {"lora_up.weight": up, "lora_down.weight": down}
    torch.testing.assert_close(change_of(pieces), up @ down)
    torch.testing.assert_close(change_of(pieces | {"alpha": torch.tensor(1.0)}), up @ down / 2)
    torch.testing.assert_close(change_of(pieces | {"scalar": torch.tensor(3.0)}), 3 * up @ down)


def test_a_core_of_a_convolution_is_applied_place_by_place() -> None:
    core, up, down = normal(2, 2, 3, 3), normal(6, 2, 1, 1, seed=1), normal(2, 5, 1, 1, seed=2)
    pieces = {"lora_mid.weight": core, "lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(4.0)}
    change = change_of(pieces)
    expected = torch.stack(
        [up[:, :, 0, 0] @ core[:, :, y, x] @ down[:, :, 0, 0] for y in range(3) for x in range(3)], -1
    )
    torch.testing.assert_close(change, 2 * expected.reshape(6, 5, 3, 3))
    seen = torch.nn.functional.conv2d(normal(1, 5, 8, 8), change)
    step = torch.nn.functional.conv2d(torch.nn.functional.conv2d(normal(1, 5, 8, 8), down), core)
    torch.testing.assert_close(seen, 2 * torch.nn.functional.conv2d(step, up), rtol=1e-4, atol=1e-4)


def test_loha_with_cores_is_a_product_of_two_such_changes() -> None:
    t1, t2, a1, a2 = normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1), normal(2, 6, seed=2), normal(2, 6, seed=3)
    b1, b2 = normal(2, 5, seed=4), normal(2, 5, seed=5)
    pieces = {"hada_t1": t1, "hada_t2": t2, "hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    halves = [
        torch.stack([a.T @ t[:, :, y, x] @ b for y in range(3) for x in range(3)], -1).reshape(6, 5, 3, 3)
        for t, a, b in ((t1, a1, b1), (t2, a2, b2))
    ]
    torch.testing.assert_close(change_of(pieces), halves[0] * halves[1])


@pytest.mark.parametrize("split", [(), ("lokr_w1",), ("lokr_w2",), ("lokr_w1", "lokr_w2")])
def test_lokr_is_the_same_with_whole_factors_and_products(split: tuple[str, ...]) -> None:
    left = {"lokr_w1": normal(2, 3), "lokr_w2": normal(3, 2, seed=1)}
    right = {"lokr_w1": normal(3, 2, seed=2), "lokr_w2": normal(2, 4, seed=3)}
    pieces: dict[str, Tensor] = {"alpha": torch.tensor(6.0)}
    for name in left:
        if name in split:
            pieces |= {f"{name}_a": left[name], f"{name}_b": right[name]}
        else:
            pieces[name] = left[name] @ right[name]
    rank = 2.0 if "lokr_w2" in split else 3.0 if split else 6.0  # the last factor that is a product has it
    whole = torch.kron(left["lokr_w1"] @ right["lokr_w1"], left["lokr_w2"] @ right["lokr_w2"])
    torch.testing.assert_close(change_of(pieces), whole * 6.0 / rank)


def test_lokr_of_a_convolution_has_a_core() -> None:
    w1, core, a, b = normal(2, 3), normal(2, 2, 3, 3, seed=1), normal(2, 4, seed=2), normal(2, 5, seed=3)
    change = change_of({"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}).reshape(8, 15, 3, 3)
    for y in range(3):
        for x in range(3):
            torch.testing.assert_close(change[:, :, y, x], torch.kron(w1, a.T @ core[:, :, y, x] @ b))


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_gives_rows_or_columns_their_lengths(axis: int) -> None:
    weight, change = normal(4, 6), normal(4, 6, seed=1)
    scale = torch.rand(4, 1) + 1 if axis == 0 else torch.rand(1, 6) + 1
    whole = changed_weight(weight, change, scale, 1.0)
    torch.testing.assert_close(whole.norm(dim=1 - axis, keepdim=True), scale)
    direction = torch.nn.functional.cosine_similarity(whole, weight + change, dim=1 - axis)
    torch.testing.assert_close(direction, torch.ones_like(direction))
    torch.testing.assert_close(changed_weight(weight, change, scale, 0.25), weight + 0.25 * (whole - weight))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="oft_blocks"):
        change_of({"oft_blocks": normal(2, 2, 2)})
