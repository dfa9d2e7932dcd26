"""Subject likeness: what is shown where, against the training set's images."""

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.results import About, Score
from finetune.evaluate.scores.likeness import likeness_score


def subject_likeness(evidence: Evidence) -> Score:
    """Score how far images went to what the training images show."""
    meaning = "How much images show what the training images show: 0 is the base model, 1 another image of the set. "
    meaning += "Higher is better for a subject; for a style it should stay low."
    return likeness_score(About(meaning, "higher", evidence.content.name), evidence.grid, evidence.content)
