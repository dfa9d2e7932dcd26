"""Models of the Hub: where their files are, and what to do where one does not come."""

import os
from pathlib import Path

from huggingface_hub import hf_hub_download
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

from finetune.models.base import ModelSource


def hub_file(source: ModelSource, name: str) -> Path:
    """Returns where a file of the model is, from the cache or the Hub; raises ValueError with one sentence."""
    try:
        return Path(hf_hub_download(source.location, name, revision=source.revision))
    except (OSError, ValueError) as error:
        text = hub_advice(error, source, f"file {name}, expected a model in diffusers layout. Choose another model")
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            text
            or f"model.source: {source.location} is no folder here and does not come from the Hub ({reason}). Try "
            "again, or give a local folder."
        ) from error


def hub_advice(error: BaseException, source: ModelSource, missing: str) -> str | None:
    """Returns the sentence for an error that the Hub is behind, None for another one; `missing` says what the model
    does not have where a file is not there, and what to do."""
    location, found = source.location, {type(cause) for cause in causes(error)}

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(issubclass(kind, kinds) for kind in found)

    if is_a(GatedRepoError):
        return (
            f"model.source: {location} is gated. Accept its terms at https://huggingface.co/{location}, log in with "
            "`hf auth login`, and give the same command again."
        )
    if is_a(RepositoryNotFoundError):
        return (
            f"model.source: the Hub has no model {location}, or it is private and not yours. Check the name, log in "
            "with `hf auth login` if it is private, or give a local folder."
        )
    if is_a(RevisionNotFoundError):
        return (
            f"model.revision: {location} has no revision {source.revision}. Give one of its branches, tags or whole "
            "commits, or remove the option."
        )
    if is_a(DisabledRepoError):
        return f"model.source: {location} has been disabled on the Hub. Choose another model."
    answers = [cause.response.status_code for cause in causes(error) if isinstance(cause, HfHubHTTPError)]
    if 401 in answers or 403 in answers:
        return (
            f"model.source: the Hub does not let you read {location} ({answers[0]}). Log in with `hf auth login` and a "
            "token that may read it."
        )
    if is_a(LocalEntryNotFoundError, OfflineModeIsEnabled):
        offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
        why = "HF_HUB_OFFLINE is set" if offline else "the Hub is not reached"
        why = f"the Hub answers {answers[0]}" if answers else why
        revision = f" --revision {source.revision}" if source.revision else ""
        return (
            f"model.source: no folder {location} is here, the cache does not hold all of the model of that name, and "
            f"{why}. Where there is a network: `hf download {location}{revision}`; or give a local folder."
        )
    if is_a(EntryNotFoundError):
        return f"model.source: {location} has no {missing}."
    if is_a(HFValidationError):
        return f"model.source: no folder {location}, and a Hub id has the form owner/name. Check the name."
    return None


def causes(error: BaseException | None) -> list[BaseException]:
    """Returns the error and those it was raised from or because of."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
