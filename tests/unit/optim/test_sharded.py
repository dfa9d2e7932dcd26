import torch

from finetune.optim.sharded import local, own_share, own_share_of_state, part_like, shares, whole


def test_shares_are_about_equal_and_every_name_has_one() -> None:
    sizes = {str(number): size for number, size in enumerate([5, 1, 1, 1, 8, 1, 3])}
    found = shares(sizes, 3)
    assert found.keys() == sizes.keys()
    held = [sum(sizes[name] for name in found if found[name] == rank) for rank in range(3)]
    assert sum(held) == 20 and max(held) <= 20 / 3 + 8
    assert list(found.values()) == sorted(found.values())


def test_more_processes_than_tensors_leave_some_without() -> None:
    assert set(shares({"a": 4, "b": 4}, 4).values()) == {0, 2}
    assert shares({}, 2) == {}


def test_whole_tensors_stay_as_they_are() -> None:
    value = torch.ones(3)
    assert local(value) is value and whole(value) is value and part_like(value, torch.zeros(3)) is value
    state = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": value}}, "param_groups": [{"lr": 1.0}]}
    kept = [own_share_of_state(state, rank, 2) for rank in range(2)]
    assert [len(part["state"]) for part in kept] == [1, 0]  # pyright: ignore[reportArgumentType]
    assert [list(own_share({"a": value, "b": value}, rank, 2)) for rank in range(2)] == [["a"], ["b"]]
