"""Style likeness: colours, edges and textures against the training set's."""

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.results import About, Score
from finetune.evaluate.scores.likeness import likeness_score


def style_likeness(evidence: Evidence) -> Score:
    """Score how far images went to the style of the set."""
    meaning = "How much images look like the training set: 0 is the base model, 1 another image of the set. Higher is "
    meaning += "better."
    return likeness_score(About(meaning, "higher", evidence.style.name), evidence.grid, evidence.style)
