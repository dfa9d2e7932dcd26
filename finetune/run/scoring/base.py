"""The base model beside the one that trains."""

import contextlib
from collections.abc import Generator, Iterable

import torch
from torch import nn

from finetune.batches.encoder import explaining_encoding
from finetune.batches.preview_prompts import kept_prompt
from finetune.evaluate.features.model import FrozenModel
from finetune.evaluate.grid import Grid
from finetune.evaluate.measure import FeatureSet
from finetune.evaluate.running.desk import Desk
from finetune.evaluate.running.instruments import Instruments
from finetune.methods.tokens import token_embeddings
from finetune.models.parts import ModelParts, load_sequentially
from finetune.session import Session
from finetune.tasks.base_model import adapters_off


def make_instruments(session: Session, desk: Desk) -> Instruments:
    """Find the base model. Where adapters alone train, it is the network without them; else it is loaded again."""
    run, model, network = session.run, session.model, session.tuned.network
    is_shared = not model.alters_weights and not token_embeddings(network)
    parts = model.parts if is_shared else load_sequentially(run.family, run.source)
    with base_weights(session, parts, is_shared=is_shared):
        frozen = FrozenModel(run.family, parts.components, run.accelerator.device, is_placed=is_shared)
        instruments = Instruments(parts, is_shared, frozen, FeatureSet.from_config(desk.config.features, frozen))
        encode_grid(session, instruments, desk.asked, desk.draw.negative_prompt)
    return instruments


@contextlib.contextmanager
def base_weights(session: Session, parts: ModelParts, *, is_shared: bool) -> Generator[None]:
    """Lend the base model's weights within the context. Text encoders get none."""
    accelerator = session.run.accelerator
    off = adapters_off(session.tuned.network) if is_shared else contextlib.nullcontext()
    with off, parts.lent("vae", "denoiser"), accelerator.autocast():
        placed = [] if is_shared else [parts.components.denoiser]
        move([parts.components.vae, *placed], accelerator.device)
        yield


def encode_grid(session: Session, instruments: Instruments, grid: Grid, negative_prompt: str) -> None:
    """Encode all texts that are drawn or compared. The text encoders are loaded for it."""
    run, parts = session.run, instruments.parts
    with explaining_encoding("prompts of scored images"), parts.lent("text_encoders"):
        move(parts.components.text_encoders, run.accelerator.device)
        contents = [prompt.content for prompt in grid.prompts]
        instruments.model.encode_texts(["", *contents, *grid.captions])
        for prompt in grid.prompts:
            instruments.base_prompts[prompt.text] = kept_prompt(
                *(run.family, parts.components, prompt.text, negative_prompt, run.accelerator),
                text_encoder_is_trained=False,
            )
    if not session.model.trains_text_encoders:
        instruments.prompts = instruments.base_prompts
        return
    for prompt in grid.prompts:
        instruments.prompts[prompt.text] = kept_prompt(
            *(run.family, session.components, prompt.text, negative_prompt, run.accelerator),
            text_encoder_is_trained=True,
        )


def move(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Move modules to a device."""
    for module in modules:
        module.to(device)
