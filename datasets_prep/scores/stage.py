"""Score images with models, and reject those beyond a limit."""

import numpy as np

from datasets_prep.caches.lines import JsonLines
from datasets_prep.config import ScoresConfig
from datasets_prep.context import Context
from datasets_prep.records import Why
from datasets_prep.source_metadata import Captions

LIMITS = {"aesthetic": "min_aesthetic", "nsfw": "max_nsfw", "watermark": "max_watermark", "clip": "min_clip"}
OF_IMAGES = ("aesthetic", "nsfw", "watermark")


def models_of(config: ScoresConfig) -> dict[str, str]:
    """Map configured scores to models."""
    named = {
        "aesthetic": config.aesthetic_model,
        "nsfw": config.nsfw_model,
        "watermark": config.watermark_model,
        "clip": config.clip_model,
    }
    return {name: model for name, model in named.items() if model is not None}


def limit_of(config: ScoresConfig, name: str) -> float | None:
    """Return the limit of a score, or None."""
    limits = {
        "aesthetic": config.min_aesthetic,
        "nsfw": config.max_nsfw,
        "watermark": config.max_watermark,
        "clip": config.min_clip,
    }
    return limits[name]


def score_images(context: Context) -> dict[str, np.ndarray]:
    """Return scores [N] that need no captions, by name. NaN for rejected images."""
    models = models_of(context.config.scores)
    return {name: model_score(context, name, model, None) for name, model in models.items() if name in OF_IMAGES}


def score_captions(context: Context, captions: Captions) -> dict[str, np.ndarray]:
    """Score how well images [N] and captions agree, if configured."""
    models = models_of(context.config.scores)
    return {
        name: model_score(context, name, model, captions) for name, model in models.items() if name not in OF_IMAGES
    }


def model_score(context: Context, name: str, model: str, captions: Captions | None) -> np.ndarray:
    """Return one score [N] and reject images beyond its limit."""
    from datasets_prep.scores.scorers import make_scorer, scores_of

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
    limit = limit_of(config, name)
    if limit is not None:
        found = {index: why for index in inside if (why := beyond(name, float(result[index]), limit)) is not None}
        selection.reject(f"score: {name}", found, f"beyond the limit {limit:g}")
    return result


def beyond(name: str, score: float, limit: float) -> Why | None:
    """Explain why a score is beyond its limit, or return None."""
    is_least = LIMITS[name].startswith("min")
    if score >= limit if is_least else score <= limit:
        return None
    side = "at least" if is_least else "at most"
    return "low_score", f"{name} {score:.4g}, expected {side} {limit:g}", score


def check_scores(config: ScoresConfig) -> list[str]:
    """Return what the scores depend on. Models that cannot give theirs are refused before anything else is done."""
    if not models_of(config):
        return []
    from datasets_prep.scores.scorers import check_model, make_scorer

    for name, model in models_of(config).items():
        check_model(name, model)
    return [make_scorer(name, model).identity() for name, model in models_of(config).items()]
