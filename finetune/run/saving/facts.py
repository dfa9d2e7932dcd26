"""Facts of a run, for the metadata of its files."""

import math
from datetime import UTC, datetime

from finetune.data.class_images import trained, trained_captions
from finetune.data.folders import folder_counts
from finetune.export.metadata import RunFacts, tag_counts
from finetune.session import Session


def run_facts(session: Session, step: int, *, usage_hint: str | None = None) -> RunFacts:
    """Return the run's facts for files of the weights after `step`."""
    run, manifest = session.run, session.run.manifest
    counted = trained(manifest.records, session.data.held_out_indices)
    return RunFacts(
        base_sha256=session.model.base_sha256,
        steps=step,
        epochs=math.ceil(step * run.global_batch_size / counted.num_samples),
        global_batch_size=run.global_batch_size,
        num_train_images=sum(counted.instance.values()),
        num_reg_images=sum(counted.of_class.values()),
        image_repeats=counted.instance,
        reg_image_repeats=counted.of_class,
        dataset_location=manifest.title,
        folders=folder_counts(manifest, session.data.held_out_indices),
        dataset_fingerprint=manifest.fingerprint,
        tags=tag_counts(trained_captions(manifest.records, session.data.held_out_indices)),
        mixed_precision=run.accelerator.mixed_precision,  # pyright: ignore[reportArgumentType]  (device.py checked it)
        started_at=run.started_at.timestamp(),
        finished_at=datetime.now(UTC).timestamp(),
        usage_hint=usage_hint,
    )
