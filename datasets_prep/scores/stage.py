"""Score images with models, and reject those beyond a limit."""

import numpy as np

from datasets_prep.caches.lines import JsonLines
from datasets_prep.config import SCORES, ScoresConfig
from datasets_prep.context import Context
from datasets_prep.records import Why
from datasets_prep.scores.scorers import make_scorer, scores_of
from datasets_prep.source_metadata import Captions


def score_images(context: Context) -> dict[str, np.ndarray]:
    """Return scores [N] that need no captions, by name. NaN for rejected images."""
    models = context.config.scores.models()
    return {name: model_score(context, name, models[name], None) for name in models if not SCORES[name].of_captions}


def score_captions(context: Context, captions: Captions) -> dict[str, np.ndarray]:
    """Score how well images [N] and captions agree, if configured."""
    models = context.config.scores.models()
    return {name: model_score(context, name, models[name], captions) for name in models if SCORES[name].of_captions}


def model_score(context: Context, name: str, model: str, captions: Captions | None) -> np.ndarray:
    """Return one score [N] and reject images beyond its limit."""
    selection, config = context.selection, context.config.scores
    result = np.full(len(selection.images), np.nan)
    inside = [int(index) for index in np.flatnonzero(selection.is_in)]
    scorer = make_scorer(name, model)
    texts = {index: "" if captions is None else captions.of(index)[0] for index in inside}
    if captions is not None:
        inside = [index for index in inside if texts[index]]  # nothing agrees or disagrees with no caption
    identity, seen = scorer.identity(), selection.images.seen
    keys = {index: f"{name} {identity} {seen(index).hex()[:32]} {texts[index]}" for index in inside}
    cache = JsonLines(context.own / "scores.jsonl", context.findings)
    missing = [index for index in inside if cache.get(keys[index]) is None]
    scores = scores_of(scorer, missing, context.loader.small, texts, config.batch_size)
    try:
        for done, (index, score) in enumerate(scores, 1):
            cache.put(keys[index], score)
            context.progress(f"scoring ({name})", done, len(missing))
        for index in inside:
            value = cache.get(keys[index])
            result[index] = np.nan if value is None else value
    finally:
        cache.close()
    limit = config.limit(name)
    if limit is not None:
        found = {index: why for index in inside if (why := beyond(name, float(result[index]), limit)) is not None}
        selection.reject(f"score: {name}", found, f"beyond the limit {limit:g}")
    return result


def beyond(name: str, score: float, limit: float) -> Why | None:
    """Explain why a score is beyond its limit, or return None."""
    is_least = SCORES[name].limit == "min"
    if score >= limit if is_least else score <= limit:
        return None
    side = "at least" if is_least else "at most"
    return "low_score", f"{name} {score:.4g}, expected {side} {limit:g}", score


def check_scores(config: ScoresConfig) -> list[str]:
    """Return what the scores depend on. Models that cannot give theirs are refused before anything else is done."""
    scorers = [make_scorer(name, model) for name, model in config.models().items()]
    return [scorer.identity() for scorer in scorers]
