import json
from pathlib import Path

import pytest

from finetune.rate.pairs import make_pairs
from finetune.rate.targets import find_target
from tests.support.drawn_folders import PROMPTS, add_scored
from tests.support.images import drawn


def two_runs(folder: Path) -> tuple[Path, Path]:
    add_scored(folder / "one", {"scored/base": None, "scored/step_000100": 100})
    add_scored(folder / "other", {"scored/base": None, "scored/step_000200": 200})
    return folder / "one", folder / "other"


def test_images_of_one_prompt_and_seed_are_paired(tmp_path: Path) -> None:
    first, second = (find_target(path) for path in two_runs(tmp_path))
    pairs, num_equal = make_pairs(first, second, 0)
    assert {(pair.prompt, pair.seed) for pair in pairs} == {(prompt, seed) for prompt in PROMPTS for seed in (0, 1)}
    assert num_equal == 0 and first.root == tmp_path / "one"
    for pair in pairs:
        assert {pair.left.target, pair.right.target} == {first.name, second.name}
        assert pair.left.path.name == pair.right.path.name


def test_sides_and_order_depend_on_the_seed_alone(tmp_path: Path) -> None:
    one, other = map(find_target, two_runs(tmp_path))
    drawings = [make_pairs(one, other, seed)[0] for seed in range(20)]
    again = [make_pairs(one, other, seed)[0] for seed in range(20)]
    assert drawings == again
    assert len({tuple(pair.key for pair in pairs) for pairs in drawings}) > 5
    num_left = sum(pair.left.target == one.name for pairs in drawings for pair in pairs)
    assert 20 < num_left < 60  # of 80
    turned = make_pairs(other, one, 3)[0]
    assert turned == drawings[3]


def test_equal_images_are_left_out_and_counted(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    name = "prompt00_seed1.png"
    drawn(5, (32, 32)).save(one / "scored" / "step_000100" / name)
    drawn(5, (32, 32)).save(other / "scored" / "step_000200" / name, compress_level=1)
    pairs, num_equal = make_pairs(find_target(one), find_target(other), 0)
    assert len(pairs) == 3 and num_equal == 1
    with pytest.raises(ValueError, match="are equal"):
        make_pairs(find_target(one), find_target(one / "scored" / "step_000100"), 0)


def test_prompts_count_by_their_text_where_grids_differ(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    grid = json.loads((other / "grid.json").read_text())
    grid["prompts"] = [{"text": "something else"}, {"text": PROMPTS[0]}]
    (other / "grid.json").write_text(json.dumps(grid))
    pairs, _ = make_pairs(find_target(one), find_target(other), 0)
    assert {(pair.prompt, pair.left.path.name[:8] == pair.right.path.name[:8]) for pair in pairs} == {
        (PROMPTS[0], False)
    }
    grid["prompts"] = []
    (other / "grid.json").write_text(json.dumps(grid))  # then the prompts in the images count
    assert len(make_pairs(find_target(one), find_target(other), 0)[0]) == 4


def test_the_best_checkpoint_of_a_scored_folder_is_taken(tmp_path: Path) -> None:
    add_scored(tmp_path / "run", {"scored/step_000100": 100, "scored/step_000200": 200})
    with pytest.raises(ValueError, match=r"no best checkpoint.*step_000100"):
        find_target(tmp_path / "run")
    (tmp_path / "run" / "best.json").write_text('{"step": 100, "target": "ink-100"}')
    assert find_target(tmp_path / "run").name.endswith("scored/step_000100")
    assert find_target(tmp_path / "run" / "scored" / "step_000200").root == tmp_path / "run"


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="finetune evaluate"):
        find_target(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_target(tmp_path / "absent")
    rows = (other / "scores.jsonl").read_text().replace("scored/step_000200", "../one/scored/step_000100")
    (other / "scores.jsonl").write_text(rows)
    with pytest.raises(ValueError, match="targets"):
        find_target(other)
    (one / "grid.json").write_text('{"prompts": [{"text": "x"}, {"text": "y"}]}')
    with pytest.raises(ValueError, match="no prompt and seed in common"):
        make_pairs(find_target(one), find_target(other / "scored" / "step_000200"), 0)
