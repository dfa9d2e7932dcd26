"""`train()`: assemble the run, then the one training loop of all recipes, readable from top to bottom."""

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import torch

from finetune.batches.batch_errors import with_plain_errors
from finetune.batches.buckets import BucketBatchSampler, assign_buckets, bucket_figures, refuse_longer_sides
from finetune.batches.dataset import TrainingDataset, collate_by_name
from finetune.batches.encoder import Encoder
from finetune.batches.fill_caches import build_caches, used_captions
from finetune.batches.inpaint_masks import Holes
from finetune.batches.latent_masks import LatentMasks
from finetune.batches.preview_prompts import kept_prompts
from finetune.batches.truncated_captions import cut_warnings
from finetune.config.inpaint import InpaintConfig
from finetune.config.parse.command_line import as_plain, dump
from finetune.config.sections import TrainConfig
from finetune.data.class_images import trained, trained_captions
from finetune.data.manifest import Manifest
from finetune.export.metadata import tag_counts
from finetune.files import lock_folder, refuse_lost_folder, write_atomically, writing
from finetune.methods.base import RunFacts, TrainedModel, TuningMethod, explaining_export
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family, parts_warnings, scheduler_warnings
from finetune.models.loading.eight_bits import eight_bit_warnings
from finetune.models.parts import PARTS, Part, is_dropped
from finetune.models.quantized.packed import num_frozen, pack_layers
from finetune.models.stored import place
from finetune.optim.build import build_optimizer, evaluation_weights, learning_rate_factor
from finetune.optim.ema import EMA, trained_parameters, trained_state
from finetune.optim.groups import hold, is_held
from finetune.planning.advice import own_share
from finetune.planning.scale_warnings import scale_warnings
from finetune.plurals import plural
from finetune.processes.ranks import ranks, refuse_differences
from finetune.processes.saved_progress import note_saved
from finetune.processes.signals import EXIT_CODE, StopRequest, end_on_signals, outlive_signals
from finetune.processes.streams import lost_output
from finetune.randomness import stream
from finetune.report.run import write_report
from finetune.run.base_loss import base_loss_warnings
from finetune.run.checkpoint import Checkpoint, remove_leftovers, save_checkpoint
from finetune.run.device import COMPUTE_DTYPES, TRAINED_DTYPES, device_warnings, make_accelerator, refuse_unfit
from finetune.run.fingerprint import model_identity
from finetune.run.preview import BASE_STEP, make_previews, planned_previews, save_grid
from finetune.run.progress import progress_line
from finetune.run.resume import find_checkpoint, refuse_other_model, restore
from finetune.run.step import (
    agree,
    due,
    forward_backward,
    gradient_norm,
    naming_out_of_memory,
    refuse_non_finite,
    update,
)
from finetune.run.threads import all_cores
from finetune.run.validate import validation_loss
from finetune.run.weight_hashes import file_stamps, hashed_parts, refuse_changed_files
from finetune.run_folder.finished import write_status
from finetune.run_folder.metrics import MetricsFile, Row, Window
from finetune.run_folder.options import cache_folder, check_output, data_card, held_out_indices, refuse_separate_folders
from finetune.tasks.base_model import masked
from finetune.tracking.tracker import PreviewRow, Tracker, start_tracking


@contextlib.contextmanager
def closed_on_failure(tracker: Tracker | None) -> Iterator[None]:
    """Closes the dashboards' records as failed when the run fails."""
    try:
        yield
    except Exception:
        if tracker:
            tracker.finish(1)
        raise


def train(config: TrainConfig, method: TuningMethod, manifest: Manifest, *, from_scratch: bool = False) -> Path:
    """Trains, saves, exports and reports; returns the run's folder. A model that is trained `from_scratch` is not asked
    whether it fits its objective.

    Raises ValueError or OSError for what a user can mend, SystemExit(75) where a signal stopped the run after a
    checkpoint.
    """
    started_at = datetime.now(UTC)
    out, steps, seed = config.output.folder, config.train.steps, config.seed
    check_output(out)
    accelerator = make_accelerator(config, manifest.fingerprint)
    refuse_unfit(accelerator, config)
    is_main, say = accelerator.is_main_process, accelerator.print
    lock = lock_folder(out) if is_main else None
    refuse_separate_folders(out)
    if is_main:
        remove_leftovers(out)
        remove_leftovers(out / "checkpoints")
        remove_leftovers(out / "previews")
    warnings = list(manifest.warnings) + device_warnings(accelerator, config)

    # The model: what contradicts its scheduler is refused before weights are read.
    source = ModelSource.of(config.model, config.loss.prediction_type)
    name = find_family(source, config.model.family)
    family = family_named(name)
    if config.model.family is None:
        say(f"model.family: {name} ({family.title}), as {source.location} says.")
        config = replace(config, model=replace(config.model, family=name))
    objective = family.objective(family.scheduler(source), config.loss)
    warnings += [*parts_warnings(source), *family.warnings(source), *scheduler_warnings(family, source)]
    if objective.options.zero_terminal_snr and objective.options.weighting != "none":
        warnings.append(
            f"zero terminal SNR with loss.weighting {objective.options.weighting} gives the last timestep, where "
            "sampling starts, the weight 0; add --loss.weighting none to train it."
        )
    is_inpainting = family.is_inpainting(source)
    if not is_inpainting and config.inpaint != InpaintConfig():
        raise ValueError(
            f"inpaint: {source.location} is not an inpainting model, so it is not told of hidden parts. "
            "Remove the options of this section."
        )
    if config.preview.negative_prompt and not family.knows_negative_prompts:
        raise ValueError(f"preview.negative_prompt: got one, but {family.title} is guided without. Remove it.")
    resumed = find_checkpoint(config, manifest, accelerator, warnings)
    read = source if method.alters_weights else replace(source, as_stored=True)
    # Every part is there and fits; none has weights now.
    parts, hashes = hashed_parts(family, read, cache_folder(config.cache), warnings.append)
    components, base_sha256, stamps = parts.components, hashes["denoiser"][0], file_stamps(read)
    warnings += eight_bit_warnings(read)
    identity = model_identity(components, hashes, objective)
    if resumed is not None:
        warnings += refuse_other_model(identity, base_sha256, resumed[0], resumed[1].state, config)
    start = 0 if resumed is None else resumed[1].state["step"]
    note_saved(None if resumed is None else start)
    refuse_differences({"first step": start, **{f"model's {part}": facts for part, facts in identity.items()}})
    method.check(family, components, text_encoder=config.train.text_encoder)
    in_network = method.parts(text_encoder=config.train.text_encoder)
    encodes_prompts = "text_encoders" in in_network
    compute_dtype, trained_dtype = COMPUTE_DTYPES[accelerator.mixed_precision], TRAINED_DTYPES[config.optim.weights]

    # The data: held-out pictures, buckets, caches.
    records = manifest.records
    held_out_set = held_out_indices(records, config.validation)
    multiple = family.pixel_multiple(components.vae)
    if config.data.bucket_step % multiple:
        raise ValueError(
            f"data.bucket_step: got {config.data.bucket_step}, expected a multiple of {multiple} for this VAE."
        )
    all_buckets = assign_buckets(records, config.data)
    refuse_longer_sides([(bucket.width, bucket.height) for bucket in all_buckets], family.longest_side(components))
    buckets = [part for bucket in all_buckets if (part := bucket.without(held_out_set)).records]
    held_out = [part for bucket in all_buckets if (part := bucket.only(held_out_set)).records]
    if not buckets:
        raise ValueError(
            f"data.folder: all images ({len(records)}) are held out for validation. Lower validation.fraction."
        )
    validates = bool(held_out) and config.validation.every > 0
    global_batch_size = config.train.batch_size * config.train.accumulation * accelerator.num_processes
    figures = [bucket_figures(bucket, records) for bucket in buckets]
    say(f"{plural(len(records), 'image')}, {len(held_out_set)} held out; global batch size {global_batch_size}.")
    for figure in figures:
        say(
            f"  bucket {figure.width}x{figure.height}: {plural(figure.num_pictures, 'image')}, "
            f"{figure.crop_loss_mean:.1%} of the area cropped, {figure.num_upscaled} upscaled"
        )
    small = [figure for figure in figures if figure.num_pictures < global_batch_size]
    if small:
        warnings.append(
            f"{plural(len(small), 'bucket has', 'buckets have')} fewer images than a global batch of "
            f"{global_batch_size}, so an image can be in it more than once; a smaller data.max_aspect or batch avoids "
            "this."
        )
    warnings += cut_warnings(
        family, components.tokenizers, used_captions(records, buckets, held_out, config.data), config.preview
    )
    learned_from = [record for index, record in enumerate(records) if index not in held_out_set]
    seen = config.train.steps * global_batch_size * own_share(config)
    warnings += scale_warnings(
        components.denoiser.config,
        family.pixels_per_latent(components.vae),
        config.data.resolution,
        len(learned_from),
        seen / sum(record.repeats for record in learned_from),
    )
    for warning in warnings:
        say(f"warning: {warning}")
    encoder = Encoder(family, components, accelerator.device, text_encoder_is_trained=encodes_prompts, parts=parts)
    cache = replace(config.cache, text=config.cache.text and not encodes_prompts)
    masks = None
    if config.mask.kind != "none":
        assert manifest.masks is not None, "the manifest was read without the mask options"
        masks = LatentMasks(config.mask.kind, manifest.masks, family.pixels_per_latent(components.vae))
    holes = Holes(config.inpaint.num_masks, config.inpaint.whole_share) if is_inpainting else None
    encoded = build_caches(
        encoder,
        accelerator,
        records,
        buckets,
        held_out,
        manifest.source,
        config.data,
        cache,
        cache_folder(cache),
        compute_dtype,
        masks,
        holes,
        config.preview,
    )

    # The network: the denoiser alone, and what else the run trains or asks at every step.
    parts.load(*in_network)
    if config.model.quantization != "none" or config.model.offload:
        saving = pack_layers(
            components.denoiser,
            config.model.quantization,
            double=config.model.double_quantization,
            device=accelerator.device,
            dtype=compute_dtype,
            offload=config.model.offload,
        )
        say(saving.told(config.model.quantization, offload=config.model.offload))
    network = method.network(family, components, text_encoder=config.train.text_encoder)
    method.attach(network, seed)
    place(network, trained=trained_dtype, frozen=compute_dtype, device=accelerator.device)
    counts = {
        "trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "frozen": num_frozen(network),
    }
    say(f"{counts['trained']:,} parameters are trained, {counts['frozen']:,} of the same network are not.")
    if config.train.gradient_checkpointing:
        network.checkpoint_gradients()
    task = method.task(family, components, objective, encoder)
    if config.mask.kind != "none":
        task = masked(task, network, config.mask)
    dataset = TrainingDataset(records, buckets, manifest.source, config.data, encoded, seed, masks, holes)

    # Optimizer, EMA, and the state of the checkpoint.
    ranks().exchange()  # DistributedDataParallel begins with collectives, and reading a model may take long
    wrapped = accelerator.prepare(network)
    groups = method.param_groups(network, config.optim)
    optimizer = build_optimizer(groups, config.optim, seed)
    stepper = accelerator.prepare(optimizer)
    parameters = list(trained_parameters(network).values())
    ema = None
    if config.train.ema_decay is not None:
        ema = EMA.of(network, config.train.ema_decay, config.train.ema_device)
    step, window, pending, metrics_bytes, base_loss, elapsed = 0, Window(), None, 0, None, 0.0
    if resumed is not None:
        path, checkpoint = resumed
        state = checkpoint.state
        step, window, pending = state["step"], Window(**state["window"]), state["pending"]
        metrics_bytes, base_loss, elapsed = state["metrics_bytes"], state["base_loss"], state["elapsed_seconds"]
        restore(checkpoint, network, optimizer, ema, accelerator, groups)
        say(f"Resuming from {path} at step {step} of {steps}.")
        del checkpoint, resumed
    sampler = BucketBatchSampler(buckets, [r.repeats for r in records], global_batch_size, seed=seed, start=step)
    loader = accelerator.prepare(
        torch.utils.data.DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=functools.partial(collate_by_name, records),
            num_workers=config.data.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=outlive_signals,
        )
    )
    live: list[Part] = []
    if not config.cache.latents:
        live.append("vae")
    if not cache.text and "denoiser" in in_network:
        live.append("text_encoders")
    parts.load(*live)
    for module in itertools.chain.from_iterable(map(parts.modules, live)):
        module.to(accelerator.device)
    drawing = encoded.drawing
    if encodes_prompts:
        drawing = kept_prompts(family, components, config.preview, accelerator, text_encoder_is_trained=True)
    if step == 0 and not from_scratch:
        found = base_loss_warnings(network, task, dataset, accelerator.device)
        warnings += found
        for warning in found:
            say(f"warning: {warning}")
    metrics = None
    if is_main:  # nothing can be refused any more
        refuse_lost_folder(lock, out)
        write_atomically(out / "config.yaml", dump(config))
        card = data_card(manifest, held_out_set, [asdict(figure) for figure in figures], counts, warnings)
        write_atomically(out / "data_card.json", card)
        metrics = MetricsFile(out / "metrics.jsonl", metrics_bytes, step, lambda text: say(f"warning: {text}"))
    run_config = as_plain(config) | {
        "num_processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }
    with writing(out):
        tracker = (
            start_tracking(config.tracking, out, run_config, data_fingerprint=manifest.fingerprint) if is_main else None
        )

    for_sampling = replace(components, scheduler=family.sampling_scheduler(components.scheduler, objective.options))

    def averaged_weights() -> contextlib.AbstractContextManager[None]:
        return ema.in_place_of(network) if ema else evaluation_weights(optimizer, config.optim)

    def validate() -> float | None:
        network.eval()
        with averaged_weights():
            loss = validation_loss(
                network,
                task,
                dataset,
                held_out,
                config.data,
                accelerator,
                batch_size=config.train.batch_size,
                num_timesteps=config.validation.num_timesteps,
                stop=stop.requested,
            )
        network.train()
        return loss

    def preview(step: int) -> bool:
        folder = out / "previews"
        folder.mkdir(exist_ok=True)
        planned = planned_previews(folder, config.preview, step)
        mine, is_complete = planned[accelerator.process_index :: accelerator.num_processes], True
        if mine:
            size = config.preview.size or config.data.resolution
            network.eval()
            with averaged_weights(), writing(folder), parts.lent("vae"):
                is_complete = make_previews(
                    family, for_sampling, mine, drawing, config.preview, accelerator, size=size, stop=stop.requested
                )
            network.train()
        is_complete = not ranks().any(not is_complete)
        if tracker and is_complete:
            with writing(folder):
                grid = save_grid(folder, planned, config.preview, step)
            say(f"Previews of step {step}: {grid}")
            base = [p.base_path if p.base_path.exists() and step != BASE_STEP else None for p in planned]
            tracker.log_previews(
                [PreviewRow(p.prompt, p.seed, p.path, b) for p, b in zip(planned, base, strict=True)], step
            )
        ranks().exchange()  # one made the grid
        return is_complete

    def finish_step(step: int, row: Row | None) -> bool:
        """What follows a checkpoint at `step`, so that a run resumed from it does this again; False where it was
        stopped."""
        refuse_lost_folder(lock, out)
        if row is not None:
            if validates and due(step, config.validation.every, steps):
                loss = validate()
                if loss is None:
                    return False
                row = row | {"validation/loss": loss, "validation/base_loss": base_loss or math.nan}
            if metrics and tracker:
                metrics.write(row)
                tracker.log(row, step)
                bar.log(row)
        return not config.preview.prompts or not due(step, config.preview.every, steps) or preview(step)

    def save(step: int, row: Row | None, metrics_bytes: int) -> None:
        with stop.saving():
            if metrics is not None:
                refuse_lost_folder(lock, out)
                metrics.sync()
                write_checkpoint(step, row, metrics_bytes)
            ranks().exchange()  # a large checkpoint takes longer than the next step's collectives would wait
            note_saved(step)

    def write_checkpoint(step: int, row: Row | None, metrics_bytes: int) -> None:
        state = {
            "step": step,
            "window": window.as_dict(),
            "pending": row,
            "metrics_bytes": metrics_bytes,
            "base_loss": base_loss,
            "elapsed_seconds": elapsed,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
            "dataset": manifest.digests(),
            "base_sha256": base_sha256,
            "model": identity,
            "precision": accelerator.mixed_precision,
            "global_batch_size": global_batch_size,
        }
        saved = Checkpoint(trained_state(network), ema.settled() if ema else None, optimizer.state_dict(), state)
        save_checkpoint(out / "checkpoints", saved, dump(config), keep=config.checkpoint.keep)

    def end_stopped(step: int) -> NoReturn:
        """Ends the run, whose newest checkpoint is that of `step`."""
        where = f"after step {step} of {steps}" if step else "before the first step"
        say(f"Stopped {where}; the same command continues from there.")
        if tracker:
            with writing(out / "report.html"):
                write_report(out, message=" ".join([f"Stopped {where}.", *lost_output()]))
            tracker.finish(EXIT_CODE)
        ranks().exchange()  # a launcher kills those that still save once one has ended
        ranks().leave()
        raise SystemExit(EXIT_CODE)

    # THE loop.
    stop = StopRequest()
    stop.install()
    network.train()
    ranks().exchange()  # one opened the trackers
    if step == 0:
        base_loss = validate() if validates else None
        if (validates and base_loss is None) or (config.preview.prompts and not preview(BASE_STEP)):
            end_stopped(0)
    with progress_line(steps, step, shown=is_main) as bar, closed_on_failure(tracker):
        if step > 0 and not finish_step(step, pending):
            end_stopped(step)
        batches = with_plain_errors(iter(loader)) if step < steps else iter(())
        clock = time.perf_counter()
        for batch in itertools.islice(batches, steps - step):
            factor = learning_rate_factor(step, config.optim, steps)
            for group in optimizer.param_groups:
                held = is_held(group["name"], step, config.train.text_encoder_steps)
                group["lr"], group["at_step"] = 0.0 if held else group["peak_lr"] * factor, step
            torch.manual_seed(stream(seed, "dropout", step, accelerator.process_index))
            with naming_out_of_memory(step + 1, batch, dataset, config), ranks().in_step():
                result = forward_backward(wrapped, task, batch, config, accelerator)
                hold(optimizer.param_groups, step, config.train.text_encoder_steps)
                grad_norm = gradient_norm(parameters, optimizer, config, accelerator)
                loss, stopping = agree(result.loss, stop.requested(), accelerator)
                step += 1
                if not math.isfinite(loss) or (accelerator.scaler is None and not math.isfinite(grad_norm)):
                    updated = config.optim.in_backward and math.isfinite(loss)
                    refuse_non_finite(out, step, batch, result, loss, grad_norm, dataset, accelerator, updated=updated)
                update(stepper, step)
            if ema:
                ema.update(network, step)
            seconds = time.perf_counter() - clock  # the wait for the batch is part of it
            elapsed += seconds
            window.add(loss, global_batch_size, seconds)
            bar.advance(loss)

            row = None
            if due(step, config.train.log_every, steps) or (validates and due(step, config.validation.every, steps)):
                rates = {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups[1:]}
                rates["lr"] = optimizer.param_groups[0]["lr"]
                row = {"step": step, **window.take(), **rates, "grad_norm": grad_norm}
                row |= {"images_seen": step * global_batch_size, "elapsed_seconds": elapsed}
            logged = metrics.num_bytes() if metrics else 0  # the row belongs to what a resumed run does again
            is_saved = stopping or due(step, config.checkpoint.every, steps)
            if is_saved:
                save(step, row, logged)
            if stopping or not finish_step(step, row):
                if not is_saved:
                    save(step, row, logged)
                end_stopped(step)
            if row is not None:
                ranks().exchange()  # one wrote and printed it
            clock = time.perf_counter()

    # What is left behind.
    end_on_signals("the run is trained and saved; the same command exports it.")
    if ranks().any(stop.requested()):
        end_stopped(step)
    refuse_lost_folder(lock, out)
    refuse_changed_files(read, stamps)
    network.eval()
    if tracker:
        with contextlib.nullcontext() if ema else evaluation_weights(optimizer, config.optim):
            source_of_export = ema.settled() if ema else trained_state(network)
            state = {name: value.to("cpu", torch.float32, copy=True) for name, value in source_of_export.items()}
        counted = trained(records, held_out_set)
        facts = RunFacts(
            base_sha256=base_sha256,
            steps=step,
            epochs=math.ceil(step * global_batch_size / counted.num_samples),
            global_batch_size=global_batch_size,
            num_train_images=sum(counted.instance.values()),
            num_reg_images=sum(counted.of_class.values()),
            image_repeats=counted.instance,
            reg_image_repeats=counted.of_class,
            dataset_location=manifest.location,
            dataset_fingerprint=manifest.fingerprint,
            tags=tag_counts(trained_captions(records, held_out_set)),
            mixed_precision=accelerator.mixed_precision,  # pyright: ignore[reportArgumentType]  (devices.py checked it)
            started_at=started_at.timestamp(),
            finished_at=datetime.now(UTC).timestamp(),
        )
        if method.exports_all:
            parts.load(*PARTS)
        else:
            parts.drop("denoiser")
        kept = [module for part in in_network for module in parts.modules(part) if not is_dropped(module)]
        with explaining_export(), closed_on_failure(tracker), all_cores():
            for module in kept:
                module.to("cpu")
            for parameter in parameters:  # an average of bfloat16 weights is exported as exactly as it is kept
                parameter.data = parameter.data.float()
            model = TrainedModel(family, source, for_sampling, network, objective, state, config, facts)
            written = method.export(model, out / "export")
        for path, difference in written.items():
            say(f"Exported {path}; reloaded, its output differs by {difference:.1e} relative.")
        tracker.log_files(
            out / "export",
            name=config.output.export_name,
            kind="model",
            paths=list(written),
            metadata={"dataset_fingerprint": manifest.fingerprint, "base_sha256": base_sha256, "steps": step},
        )
        with writing(out / "report.html"):
            report = write_report(out, message=" ".join(lost_output()) or None)
        tracker.finish(0)
        for note in tracker.notes():
            say(note)
        write_status(out, steps, written)
        say(f"Report: {report}")
    ranks().exchange()
    if lock:
        lock.close()
    return out
