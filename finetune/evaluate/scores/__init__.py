"""The scores, imported on use: one file and one line each."""

SCORES = {
    "style": "finetune.evaluate.scores.style:style_likeness",
    "subject": "finetune.evaluate.scores.subject:subject_likeness",
    "adherence": "finetune.evaluate.scores.adherence:prompt_adherence",
    "drift": "finetune.evaluate.scores.drift:drift",
    "diversity": "finetune.evaluate.scores.diversity:diversity",
    "leak": "finetune.evaluate.scores.leak:content_leak",
    "memorisation": "finetune.evaluate.scores.memorisation:memorisation",
    "faults": "finetune.evaluate.scores.faults:faults",
    "kid": "finetune.evaluate.scores.kid:kid",
    "cmmd": "finetune.evaluate.scores.cmmd:cmmd",
}
"""By name in scores.jsonl: a function from Evidence to Score."""
