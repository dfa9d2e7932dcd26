import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from finetune.config.facts import Mark, marked
from finetune.config.parse.command_line import parse, parse_given
from finetune.config.parse.dump import dump, with_options
from finetune.config.recipes import AdaptConfig, FullTrainConfig, LoRATrainConfig
from finetune.data.manifest import Manifest, Record
from finetune.data.visible_files import FolderSource
from finetune.planning.advice import DatasetFacts, Number, doubts, propose
from finetune.planning.proposal import read_facts, with_kept_numbers, with_proposals

ROOT = Path(__file__).parents[3]
REQUIRED = ("--model.source", "model", "--data.folder", "pictures", "--output.folder", "out")
PROPOSED = marked(LoRATrainConfig, Mark.PROPOSED)
NUMS = (1, 5, 30, 300, 30_000)


def lora(*arguments: str) -> LoRATrainConfig:
    return parse(LoRATrainConfig, [*REQUIRED, *arguments], program="test")


def facts(num: int, *, batch: int = 4) -> DatasetFacts:
    return DatasetFacts(num, num, 0, num, num, 512, batch)


def proposed(config: AdaptConfig, num: int, *fixed: str, batch: int = 4) -> dict[str, float]:
    return {number.key: number.value for number in propose(config, fixed, facts(num, batch=batch))}


def manifest(num: int, *, copies: int = 1, repeats: int = 1) -> Manifest:
    def record(index: int, copy: int) -> Record:
        sha256 = hashlib.sha256(b"%d" % index).hexdigest()
        return Record(f"{index:05d}-{copy}.png", (f"thing {index}",), 64, 64, sha256, repeats=repeats)

    records = tuple(record(index, copy) for index in range(num) for copy in range(copies))
    return Manifest(records, FolderSource("pictures"), "pictures")


def test_without_a_goal_nothing_is_proposed_or_printed() -> None:
    config = lora()
    assert with_proposals(config, (), (), manifest(30), 1) == (config, [])
    assert with_kept_numbers(config, ()) == (config, frozenset())


@pytest.mark.parametrize("goal", ["style", "subject"])
@pytest.mark.parametrize("kind", [LoRATrainConfig, FullTrainConfig])
@pytest.mark.parametrize("batch", [1, 16, 512])
def test_numbers_are_sensible_from_one_image_to_thirty_thousand(kind: type[AdaptConfig], goal: str, batch: int) -> None:
    config = parse(kind, [*REQUIRED, "--goal", goal], program="test")
    found = [proposed(config, num, batch=batch) for num in NUMS]
    seen = [numbers["train.steps"] * batch for numbers in found]
    assert seen == sorted(seen)  # more images never mean a shorter run
    views = [total / num for total, num in zip(seen, NUMS, strict=True)]
    assert views == sorted(views, reverse=True)  # and never more views of each
    for numbers in found:
        assert numbers["train.steps"] >= 100 and numbers["optim.warmup_steps"] < numbers["train.steps"]
        assert 1e-6 <= numbers["optim.lr"] <= 1e-3
        with_options(config, dict(numbers))  # raises where options contradict each other


def test_steps_stand_for_images_seen_whatever_the_batch() -> None:
    config = lora("--goal", "style")
    assert proposed(config, 30, batch=1)["train.steps"] == 3000
    assert proposed(config, 30, batch=4)["train.steps"] == 750
    assert proposed(config, 100, batch=4)["train.steps"] == 1500  # what the style preset says for about 100
    assert proposed(lora("--goal", "subject"), 5, batch=1)["train.steps"] == 1000


def test_large_batches_raise_the_rate_by_the_square_root() -> None:
    config = lora("--goal", "style")
    rates = [proposed(config, 300, batch=batch)["optim.lr"] for batch in (1, 16, 64, 256, 4096)]
    assert rates == [1e-4, 1e-4, 2e-4, 4e-4, 4e-4]


def test_numbers_follow_those_that_were_given() -> None:
    arguments = ("--goal", "style", "--lora.rank", "3", "--train.steps", "40", "--optim.lr", "1e-3")
    more = ("--train.text_encoder", "true", "--cache.text", "false")
    config, given = parse_given(LoRATrainConfig, [*REQUIRED, *arguments, *more], program="test")
    settled, lines = with_proposals(config, given, (), manifest(30), 1)
    assert (settled.lora.rank, settled.lora.alpha, settled.train.steps) == (3, 3.0, 40)
    assert (settled.optim.lr, settled.optim.text_encoder_lr, settled.optim.warmup_steps) == (1e-3, 5e-4, 2)
    by_key = {line.split()[0]: line for line in lines[1:]}
    assert [key for key in PROPOSED if "given" in by_key[key]] == ["train.steps", "optim.lr", "lora.rank"]
    assert "proposed would be 3000" in by_key["train.steps"]


def test_a_warm_up_that_was_given_is_within_the_steps() -> None:
    arguments = [*REQUIRED, "--goal", "style", "--optim.warmup_steps", "300"]
    config, given = parse_given(LoRATrainConfig, arguments, program="test")
    settled, _ = with_proposals(config, given, (), manifest(1), 1)
    assert (settled.train.steps, settled.optim.warmup_steps) == (600, 300)


def test_other_optimizers_have_rates_of_their_own() -> None:
    prodigy = lora("--goal", "style", "--optim.name", "prodigy", "--optim.lr", "1")
    assert proposed(prodigy, 30)["optim.lr"] == 1.0
    assert proposed(lora("--goal", "style", "--optim.name", "lion8bit"), 30)["optim.lr"] == 2e-5


def test_all_that_was_given_stays_and_a_saved_config_is_a_fixed_point(tmp_path: Path) -> None:
    config, given = parse_given(LoRATrainConfig, [*REQUIRED, "--goal", "style"], program="test")
    settled, _ = with_proposals(config, given, (), manifest(30), 1)
    assert settled.train.steps == 3000
    (tmp_path / "config.yaml").write_text(dump(settled))
    saved = ["--config", str(tmp_path / "config.yaml")]
    again, given = parse_given(LoRATrainConfig, saved, program="test")
    assert again == settled
    assert with_proposals(again, given, (), manifest(300), 8)[0] == settled
    subject = parse_given(LoRATrainConfig, [*saved, "--goal", "subject"], program="test")
    assert with_options(with_proposals(*subject, (), manifest(300), 8)[0], {"goal": "style"}) == settled


def test_copies_repeats_and_held_out_images_do_not_count() -> None:
    config = lora("--goal", "style")
    assert read_facts(config, manifest(30, copies=3, repeats=5), 2) == DatasetFacts(30, 90, 0, 30, 450, 512, 2)
    held_out = lora("--validation.fraction", "0.1")
    assert read_facts(held_out, manifest(30, copies=3), 1) == DatasetFacts(27, 81, 9, 27, 81, 512, 1)
    with pytest.raises(ValueError, match="held out"):
        read_facts(held_out, manifest(1), 1)


@pytest.mark.parametrize(
    ("goal", "num", "word"),
    [("subject", 400, "3 to 30"), ("subject", 1, "background"), ("style", 5, "by heart"), ("style", 1, "1 image;")],
)
def test_what_is_unusual_is_said(goal: Literal["style", "subject"], num: int, word: str) -> None:
    assert word in " ".join(doubts(lora("--goal", goal), facts(num, batch=1)))


def test_what_is_usual_is_not_doubted() -> None:
    assert doubts(lora("--goal", "style"), facts(100)) == doubts(lora("--goal", "subject"), facts(5)) == []
    assert "adapter" in doubts(parse(FullTrainConfig, [*REQUIRED, "--goal", "style"], program="test"), facts(100))[0]


def test_every_number_has_a_reason() -> None:
    for number in propose(lora("--goal", "style"), (), facts(30)):
        assert isinstance(number, Number) and number.key in PROPOSED and number.reason


@dataclass(frozen=True)
class Prior:
    """A recipe's class options, for their names alone."""

    kind: Literal["pictures", "none"] = "pictures"

    def problems(self) -> list[str]:
        return []


@dataclass(frozen=True)
class WithClassPictures(LoRATrainConfig):
    method: Literal["lora", "full"] = "lora"
    prior: Prior = field(default_factory=Prior)


def test_class_images_take_half_of_a_step_and_all_weights_have_no_rank() -> None:
    arguments = [*REQUIRED, "--goal", "subject"]
    for more, steps in (((), 2000), (("--prior.kind", "none"), 1000)):
        config, given = parse_given(WithClassPictures, [*arguments, *more], program="test")
        assert with_proposals(config, given, (), manifest(5), 1)[0].train.steps == steps
    config, given = parse_given(WithClassPictures, [*arguments, "--method", "full"], program="test")
    settled, lines = with_proposals(config, given, (), manifest(5), 1)
    assert settled.lora == config.lora and settled.optim.lr == 5e-6
    assert not any("rank" in line for line in lines)


def test_the_preset_leaves_to_the_images_what_the_goal_proposes() -> None:
    preset = str(ROOT / "recipes" / "configs" / "sd15_lora_from_pictures.yaml")
    config, given = parse_given(LoRATrainConfig, ["--config", preset, *REQUIRED], program="test")
    assert config.goal == "style" and not given & set(PROPOSED)
