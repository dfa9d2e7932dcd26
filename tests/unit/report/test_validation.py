from finetune.report.rows import Row
from finetune.report.validation import disagreement, lowest, relative_lines, summary


def rows(losses: dict[int, float], **others: dict[int, float]) -> list[Row]:
    return [
        {"step": step, "validation/loss": loss} | {f"validation/{key}": values[step] for key, values in others.items()}
        for step, loss in losses.items()
    ]


def test_the_lowest_is_the_first_of_equals() -> None:
    found = lowest(rows({12: 0.3, 25: 0.2, 50: 0.2, 100: 0.25}))
    assert found is not None
    assert (found.step, found.loss, found.last_step, found.last) == (25, 0.2, 100, 0.25)
    assert found.has_risen and abs(found.rise - 0.25) < 1e-12
    assert lowest([{"step": 1, "loss": 0.2}]) is None and lowest([{"step": 1, "validation/loss": None}]) is None


def test_a_rise_is_told_with_both_steps_and_the_timesteps_that_disagree() -> None:
    at = {"loss_at_125": {25: 0.4, 50: 0.3, 100: 0.2}, "loss_at_625": {25: 0.1, 50: 0.2, 100: 0.3}}
    text = summary(rows({25: 0.2, 50: 0.25, 100: 0.26}, **at))
    assert "lowest at step 25 (0.2) and is 0.26 at step 100, +30%" in text
    assert "t=125 at step 100, t=625 at step 25" in text


def test_a_loss_that_falls_to_the_end_is_told_in_one_sentence() -> None:
    assert summary(rows({50: 0.3, 100: 0.2})).startswith("Validation loss 0.2 at step 100, nowhere")
    assert summary([]) == ""


def test_each_timestep_is_drawn_as_a_share_of_its_first_value() -> None:
    lines = relative_lines(rows({25: 0.2, 50: 0.1}, loss_at_125={25: 0.4, 50: 0.1}))
    assert [(line.name, line.points) for line in lines] == [("t=125", ((25.0, 1.0), (50.0, 0.25)))]


def test_a_loss_disagrees_where_the_chosen_step_is_more_than_a_hundredth_above_the_lowest() -> None:
    losses = rows({50: 0.2, 100: 0.3, 200: 0.201, 300: 0.4})
    assert "lowest at step 50 (0.2)" in disagreement(100, losses)
    assert disagreement(200, losses) == ""  # as good as equal, though the loss has risen again since
    assert disagreement(50, losses) == disagreement(None, losses) == disagreement(100, []) == ""
    assert disagreement(100, rows({100: 0.3, 200: 0.2})) != ""  # the lowest is the last
