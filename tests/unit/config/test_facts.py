from dataclasses import dataclass, field
from typing import Annotated

import pytest

from finetune.config.checks import problems, refuse
from finetune.config.facts import ActsWith, Count, Mark, Positive, Resume, marked, options
from finetune.config.parse.recipe_options import RECIPES
from finetune.config.train import TrainConfig


@dataclass(frozen=True)
class Part:
    kind: str = "plain"
    rate: Annotated[Positive | None, Mark.PROPOSED] = None
    depth: Annotated[Count, ActsWith("kind", "deep"), Resume.FIXED] = 1


@dataclass(frozen=True)
class Whole:
    name: str
    part: Annotated[Part, Resume.FREE] = field(default_factory=Part)


def test_an_option_has_the_marks_of_its_type_and_of_its_section() -> None:
    name, kind, rate, depth = options(Whole)
    assert [option.resume for option in (name, kind, rate, depth)] == [Resume.NAMED, *[Resume.FREE] * 2, Resume.FIXED]
    assert name.is_required and not kind.is_required and rate.hint == float | None
    assert marked(Whole, Mark.PROPOSED) == ["part.rate"] and marked(Whole, Resume.FREE) == ["part.kind", "part.rate"]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (Part(rate=1.0), []),
        (Part(kind="deep", depth=2), []),
        (Part(rate=0.0), ["part.rate: got 0.0, expected a number above 0, or none."]),
        (Part(rate=float("nan")), ["part.rate: got nan, expected a finite number."]),
        (Part(kind="deep", depth=0), ["part.depth: got 0, expected 1 or more."]),
        (Part(depth=2), ["part.depth: got 2 with part.kind plain, but it acts only with deep. Remove it, or change "]),
    ],
)
def test_the_checker_reads_what_an_option_accepts(part: Part, found: list[str]) -> None:
    for lines in (problems(part, "part"), problems(Whole("x", part))):
        assert [line[: len(start)] for line, start in zip(lines, found, strict=True)] == found


def test_a_rule_gets_the_sections_and_options_that_it_names() -> None:
    def rule(part: Part, name: str) -> list[str]:
        return [f"name: got {name} with part.rate {part.rate}."]

    with pytest.raises(ValueError, match=r"^part.rate: got -1.0, .*\nname: got x with part.rate -1.0.$"):
        refuse(Whole("x", Part(rate=-1.0)), [rule])


@pytest.mark.parametrize("kind", RECIPES.values())
def test_recipes_that_give_a_section_other_defaults_keep_its_marks(kind: type[TrainConfig]) -> None:
    own = {option.key: option for option in options(kind)}
    for option in options(TrainConfig):
        assert (own[option.key].resume, own[option.key].of(Mark)) == (option.resume, option.of(Mark)), option.key
