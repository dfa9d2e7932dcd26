"""Trained weights attached to the base model; a checkpoint's state restored."""

import itertools
from dataclasses import replace

from torch import nn

from finetune.batches.dataset import Encoded
from finetune.batches.preview_prompts import kept_prompts
from finetune.methods.base import TuningMethod
from finetune.models.compiled import compile_denoiser
from finetune.models.family import AutoencoderNetwork, Network
from finetune.models.kernels import to_channels_last
from finetune.models.parts import Part
from finetune.models.quantized.packed import num_frozen, pack_layers
from finetune.models.stored import cast_and_move
from finetune.optim.build import build_optimizer
from finetune.optim.ema import EMA, trained_parameters
from finetune.processes.ranks import ranks
from finetune.run.device import TRAINED_DTYPES
from finetune.run.resume import restore
from finetune.session import LoadedModel, Run, TrainingData, Tuned
from finetune.setup.sharding import shard, start_device
from finetune.tasks.base import MakeTask, Task, TaskContext
from finetune.tasks.base_model import masked


def attach(run: Run, model: LoadedModel, method: TuningMethod) -> Network | AutoencoderNetwork:
    """Return the method's network on its device, with the base weights."""
    config, components = run.config, model.components
    device = start_device(run.accelerator, run.sharding)
    model.parts.load(*model.in_network)
    if config.model.quantization != "none" or config.model.offload:
        savings = pack_layers(
            components.denoiser,
            config.model.quantization,
            double=config.model.double_quantization,
            device=device,
            dtype=model.dtype,
            offload=config.model.offload,
        )
        run.say(savings.summary(config.model.quantization, offload=config.model.offload))
    network = method.network(run.family, components)
    method.attach(network, config.seed)
    cast_and_move(network, trained=TRAINED_DTYPES[config.optim.weights], frozen=model.dtype, device=device)
    if config.train.gradient_checkpointing:
        network.checkpoint_gradients()
    if config.train.channels_last:
        to_channels_last(network)
    compile_denoiser(run.family, components.denoiser, config.train.compile)
    return network


def make_task(run: Run, model: LoadedModel, data: TrainingData, network: nn.Module, task: MakeTask) -> Task:
    """Return the network's task. Its weights must still be those of the base model."""
    found = {prompt: data.dataset.encoded.prompts(prompt) for prompt in task.prompts}
    rows = {prompt: row for prompt, row in found.items() if row is not None}
    made = task(TaskContext(model.objective, data.encoder, network, model.dtype, rows))
    return made if run.config.mask.kind == "none" else masked(made, network, run.config.mask)


def optimize(run: Run, model: LoadedModel, network: Network | AutoencoderNetwork, method: TuningMethod) -> Tuned:
    """Return network, optimizer and averages, in the checkpoint's state if any."""
    config, accelerator = run.config, run.accelerator
    if run.sharding is not None:
        shard(network, run.family, accelerator.device, accelerator.num_processes, run.sharding)
    trained = list(trained_parameters(network).values())
    counts = {"trained": sum(parameter.numel() for parameter in trained), "frozen": num_frozen(network)}
    run.say(f"{counts['trained']:,} parameters are trained, {counts['frozen']:,} of the same network are not.")
    ranks().exchange()  # DistributedDataParallel begins with collectives, and reading a model may take long
    # Sharded blocks exchange weights and gradients themselves; Accelerate adds autocast alone.
    wrapped = accelerator.prepare_model(network, evaluation_mode=run.sharding is not None)
    groups = method.param_groups(network, config.optim)
    optimizer = build_optimizer(groups, config.optim, config.seed)
    stepper = accelerator.prepare(optimizer)
    ema = None
    if config.train.ema_decay is not None:
        ema = EMA.from_network(network, config.train.ema_decay, config.train.ema_device)
    if run.resume is not None:
        restore(run.resume.path, network, optimizer, ema, accelerator, groups)
        run.say(f"Resuming from {run.resume.path} at step {run.first_step} of {run.steps}.")
    return Tuned(network, wrapped, optimizer, stepper, trained, ema, counts)


def load_live_parts(run: Run, model: LoadedModel, encoded: Encoded) -> None:
    """Put the parts that are not cached on the device."""
    live: list[Part] = ["vae"] if encoded.latents is None else []
    if encoded.text is None and "denoiser" in model.in_network:
        live.append("text_encoders")
    model.parts.load(*live)
    for module in itertools.chain.from_iterable(map(model.parts.modules, live)):
        module.to(run.accelerator.device)


def with_trained_prompts(run: Run, model: LoadedModel, data: TrainingData) -> TrainingData:
    """Return the data with previews' prompts as tokens, if text encoders train."""
    if not model.trains_text_encoders:
        return data
    preview = run.config.preview
    prompts = kept_prompts(run.family, model.components, preview, run.accelerator, text_encoder_is_trained=True)
    return replace(data, prompts=prompts)
