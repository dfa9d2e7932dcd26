"""The base model, loaded part by part. Contradictory options are refused before weights are read."""

from dataclasses import replace

from finetune.config.inpaint import InpaintConfig
from finetune.methods.base import TuningMethod
from finetune.models.kernels import refuse_without_convolutions
from finetune.models.loading.components import parts_warnings, scheduler_warnings
from finetune.models.loading.eight_bits import eight_bit_warnings
from finetune.models.loading.file_stamps import file_stamps
from finetune.objectives.diffusion import Objective
from finetune.processes.ranks import refuse_differences
from finetune.processes.saved_progress import note_saved
from finetune.run.device import COMPUTE_DTYPES
from finetune.run.fingerprint import model_identity, start_identity
from finetune.run.resume import refuse_other_model
from finetune.run.weight_hashes import hashed_parts
from finetune.session import LoadedModel, Run


def load_model(run: Run, method: TuningMethod) -> LoadedModel:
    """Return the model with every part checked and hashed, without weights."""
    config, family, source = run.config, run.family, run.source
    objective = family.objective(family.scheduler(source), config.loss)
    warnings = [*parts_warnings(source), *family.warnings(source), *scheduler_warnings(family, source)]
    warnings += objective_warnings(objective)
    is_inpainting = family.is_inpainting(source)
    refuse_unfit_options(run, is_inpainting=is_inpainting)
    read = source if method.alters_weights else replace(source, as_stored=True)
    parts, hashes = hashed_parts(family, read, config.cache.place, warnings.append)
    warnings += eight_bit_warnings(read)
    base_sha256, identity = hashes["denoiser"][0], model_identity(parts.components, hashes, objective)
    identity |= start_identity(config)
    if run.resume is not None:
        warnings += refuse_other_model(identity, base_sha256, run.resume.path, run.resume.state, config)
    note_saved(None if run.resume is None else run.first_step)
    refuse_differences({"first step": run.first_step, **{f"model's {part}": facts for part, facts in identity.items()}})
    refuse_without_convolutions(parts.components.denoiser, channels_last=config.train.channels_last)
    warnings += method.check(family, parts.components)
    dtype = COMPUTE_DTYPES[run.accelerator.mixed_precision]
    return LoadedModel(
        *(
            read,
            parts,
            objective,
            is_inpainting,
            method.parts,
            identity,
            base_sha256,
            file_stamps(read),
            dtype,
            warnings,
        ),
        alters_weights=method.alters_weights,
    )


def objective_warnings(objective: Objective) -> list[str]:
    """Return a warning where the options give a timestep no weight."""
    if not objective.options.zero_terminal_snr or objective.options.weighting == "none":
        return []
    return [
        f"zero terminal SNR with loss.weighting {objective.options.weighting} gives the last timestep, where sampling "
        "starts, the weight 0; add --loss.weighting none to train it."
    ]


def refuse_unfit_options(run: Run, *, is_inpainting: bool) -> None:
    """Raise ValueError for options that do not fit the base model."""
    config, family = run.config, run.family
    if not is_inpainting and config.inpaint != InpaintConfig():
        raise ValueError(
            f"inpaint: {run.source.location} is not an inpainting model, so it gets no hidden parts. "
            "Remove the options of this section."
        )
    if config.preview.negative_prompt and not family.knows_negative_prompts:
        raise ValueError(f"preview.negative_prompt: got one, but {family.title} is guided without. Remove it.")
