"""Warnings where a run's size misfits its model or dataset; torch-free."""

from collections.abc import Iterator, Mapping

from finetune.plurals import plural

MOST_PASSES = 300
"""Runs on few images are usually 80 to 200 passes long; beyond this the images are learned by heart."""


def scale_warnings(
    denoiser: Mapping[str, object], pixels_per_latent: int, resolution: int, num_images: int, passes: float
) -> Iterator[str]:
    """Yield warnings before images are encoded. `denoiser` is the config of the base model's denoiser."""
    size = denoiser.get("sample_size")  # some have none
    if isinstance(size, int):
        native = size * pixels_per_latent
        if resolution >= 2 * native or 2 * resolution <= native:
            yield (
                f"data.resolution: got {resolution} pixels, but the base model was made for {native}; it trains slowly "
                f"and draws badly at others. Use --data.resolution {native}, or a base model of that size."
            )
    if passes > MOST_PASSES:
        yield (
            f"train.steps: {plural(num_images, 'image')} will be seen {passes:,.0f} times each, expected at most "
            f"{MOST_PASSES} or so. Lower train.steps or train.batch_size, or add images."
        )
