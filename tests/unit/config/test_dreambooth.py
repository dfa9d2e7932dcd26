import re

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig, words
from finetune.config.parse.command_line import parse

REQUIRED = ("--model.source", "model", "--data.folder", "pictures", "--output.folder", "out")
INSTANCE = ("--instance.prompt", "a photo of sks dog")
PRIOR = ("--prior.prompt", "a photo of a dog")
MASK = ("--mask.kind", "alpha", "--mask.prior_weight", "1")
PRODIGY = ("--optim.name", "prodigy", "--optim.lr", "1")


def config(*arguments: str) -> DreamBoothTrainConfig:
    return parse(DreamBoothTrainConfig, [*REQUIRED, *arguments], program="test")


def test_two_prompts_are_all_it_needs() -> None:
    found = config(*INSTANCE, *PRIOR)
    assert (found.method, found.prior.kind, found.prior.weight) == ("lora", "pictures", 1.0)
    assert found.data.caption_dropout == 0.0
    assert config(*INSTANCE, "--prior.kind", "none").prior.prompt is None
    assert config(*INSTANCE, "--prior.folder", "dogs", "--prior.captions", "true").prior.prompt is None
    assert config("--instance.captions", "true", *PRIOR, "--data.captions", "folder").instance.prompt is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (PRIOR, "instance.prompt: missing"),
        (INSTANCE, "prior.prompt: missing"),
        ((*INSTANCE, "--prior.kind", "prediction"), "prior.prompt: missing"),
        ((*INSTANCE, "--prior.prompt", " "), "prior.prompt: missing"),
        (("--instance.prompt", " ", *PRIOR), "instance.prompt: missing"),
        ((*INSTANCE, *PRIOR, "--prior.kind", "none"), "prior.kind none, which keeps nothing"),
        ((*INSTANCE, *PRIOR, "--instance.captions", "true"), "images keep their own captions"),
        ((*INSTANCE, "--prior.prompt", "A photo of sks dog."), "expected a word for the subject"),
        (("--instance.prompt", "a photo of a dog", "--prior.prompt", "a dog in a photo of it"), "word for the subject"),
        ((*INSTANCE, *PRIOR, "--prior.kind", "prediction", "--prior.folder", "dogs"), "reads no class images"),
        ((*INSTANCE, *PRIOR, "--prior.folder", "dogs", "--prior.captions", "true"), "class images keep their own"),
        ((*INSTANCE, "--prior.captions", "true"), "prior.captions: got true without prior.folder"),
        ((*INSTANCE, "--prior.folder", "dogs"), "--prior.captions true"),
        ((*INSTANCE, *PRIOR, "--prior.weight", "0"), "prior.kind none turns it off"),
        ((*INSTANCE, *PRIOR, "--prior.num_pictures", "0"), "prior.num_pictures: got 0"),
        ((*INSTANCE, *PRIOR, "--method", "full", "--lora.rank", "2"), "method full, which has no adapters"),
        ((*INSTANCE, *PRIOR, "--data.captions", "folder"), "every image gets instance.prompt"),
        (("--instance.captions", "true", *PRIOR, "--data.captions", "none"), "which reads none"),
        ((*INSTANCE, *PRIOR, "--data.template", "{caption}, ink"), "Put its words into instance.prompt"),
        ((*INSTANCE, *PRIOR, "--prior.kind", "prediction", "--lora.init", "pissa"), "are not the base model's"),
        ((*INSTANCE, *PRIOR, "--train.text_encoder_steps", "5"), "train.text_encoder is false"),
        ((*INSTANCE, *PRIOR, *MASK, "--lora.init", "pissa"), "lora.init pissa alters its weights"),
        ((*INSTANCE, *PRIOR, *MASK, "--method", "full"), "there is no base model to compare with"),
        ((*INSTANCE, *PRIOR, *PRODIGY, "--lora.plus_ratio", "16"), "lora.plus_ratio: given with prodigy"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        config(*arguments)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words('A photo of "SKS" dog, (outdoors).') == ["a", "photo", "of", "sks", "dog", "outdoors"]
