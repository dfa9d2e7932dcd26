"""The trained weights as files for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from finetune.methods.base import TrainedModel, TuningMethod, explaining_export
from finetune.models.family import AutoencoderNetwork, Network
from finetune.models.interfaces import Denoiser, TextEncoder
from finetune.models.parts import PARTS, ModelParts, is_dropped, loaded
from finetune.optim.ema import trained_parameters
from finetune.run.saving.facts import run_facts
from finetune.run.threads import all_cores
from finetune.session import Session


@dataclass(frozen=True)
class Exported:
    """The step whose weights are exported."""

    step: int
    state: dict[str, Tensor]
    """On the CPU in float32."""
    strengths: dict[str, Any] | None = None
    """What is known of its strengths."""


def export(session: Session, exported: Exported, method: TuningMethod) -> dict[Path, float]:
    """Write every layout of the method's files; return their differences. They are measured on the reloaded files."""
    run, model = session.run, session.model
    parts, network, components = model.parts, session.tuned.network, session.components
    if run.sharding is not None:
        parts, network = unsharded(session, method)
        components = replace(parts.components, scheduler=components.scheduler)
    if method.exports_all:
        parts.load(*PARTS)
    else:
        parts.drop("denoiser")
    kept = [module for part in model.in_network for module in parts.modules(part) if not is_dropped(module)]
    with explaining_export(), all_cores():
        for module in kept:
            module.to("cpu")
        # An average of bfloat16 weights is exported as exactly as it is kept.
        for parameter in trained_parameters(network).values():
            parameter.data = parameter.data.float()
        hint = exported.strengths["reason"] if exported.strengths else None
        facts = run_facts(session, exported.step, usage_hint=hint)
        trained_model = TrainedModel(
            run.family,
            run.source,
            components,
            network,
            model.objective,
            exported.state,
            run.config,
            facts,
        )
        return method.export(trained_model, run.folder / "export")


def unsharded(session: Session, method: TuningMethod) -> tuple[ModelParts, Network | AutoencoderNetwork]:
    """Load the network's parts again; return them with the method's network. Its trained weights are those of its
    start."""
    run, model = session.run, session.model
    denoiser = loaded(run.family, model.source, "denoiser")[0]
    text_encoders, tokenizers = model.components.text_encoders, model.components.tokenizers
    if model.trains_text_encoders:
        text_encoders = loaded(run.family, model.source, "text_encoders")
        tokenizers = run.family.tokenizers(model.source)  # a method may have given them words
    components = replace(
        model.components,
        denoiser=cast("Denoiser", denoiser),
        text_encoders=tuple(cast("Sequence[TextEncoder]", text_encoders)),
        tokenizers=tokenizers,
    )
    network = method.network(run.family, components)
    method.attach(network, run.config.seed)
    return replace(model.parts, components=components), network
