"""KID: distance to the training set by a polynomial kernel."""

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.results import About, Score
from finetune.evaluate.scores.discrepancy import discrepancy_score, polynomial


def kid(evidence: Evidence) -> Score:
    """Score the unbiased kernel distance of style features."""
    meaning = "Distance of all images of trained prompts to the training set (KID on these features, comparable only "
    meaning += "within them). Lower is better."
    about = About(meaning, "lower", evidence.style.name)
    return discrepancy_score(about, evidence.grid, evidence.style, polynomial)
