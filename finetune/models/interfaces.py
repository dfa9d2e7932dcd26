"""The parts of a model as this suite uses them. The classes of diffusers and transformers have more.

Denoiser, VAE and text encoder are modules as well, which a Protocol cannot say. So they are classes that loaded parts
match without inheriting from them: for annotations alone.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import tokenizers


class Settings(Mapping[str, object]):
    """The config of a part of diffusers. Values are attributes too."""

    def __getattr__(self, name: str) -> Any: ...


class TextSettings(Protocol):
    """The config of a part of transformers."""

    def __getattr__(self, name: str) -> Any: ...

    def to_dict(self) -> dict[str, object]: ...


class Denoiser(nn.Module):
    """A UNet or transformer; called as its family knows."""

    config: Settings

    @classmethod
    def from_config(cls, config: Settings) -> Self: ...

    def enable_gradient_checkpointing(self) -> None: ...


class Posterior(Protocol):
    """The normal distribution of an image's latents."""

    mean: Tensor
    std: Tensor
    logvar: Tensor

    def sample(self, generator: list[torch.Generator]) -> Tensor: ...


class Encoded(Protocol):
    """The output of a VAE's encoder."""

    latent_dist: Posterior


class Decoded(Protocol):
    """The output of a VAE's decoder."""

    sample: Tensor


class VAE(nn.Module):
    """An autoencoder between images and latents. Images are [B 3 h w] in [-1, 1], latents [B C H W]."""

    config: Settings
    device: torch.device
    dtype: torch.dtype

    def encode(self, x: Tensor, return_dict: bool = True) -> Encoded: ...

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Decoded: ...

    def register_to_config(self, **settings: object) -> None: ...

    def enable_gradient_checkpointing(self) -> None: ...


class TextEncoder(nn.Module):
    """A model of transformers that encodes tokens; called as its family knows."""

    config: TextSettings
    device: torch.device

    def get_input_embeddings(self) -> nn.Embedding: ...

    def set_input_embeddings(self, value: nn.Module) -> None: ...

    def gradient_checkpointing_enable(self) -> None: ...


class TokenizedText(Protocol):
    """The output of a tokenizer. Ids are lists, or a tensor where it was asked for one."""

    input_ids: Any


class Tokenizer(Protocol):
    """A tokenizer of transformers."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    unk_token_id: int
    model_max_length: int
    added_tokens_encoder: dict[str, int]
    backend_tokenizer: "tokenizers.Tokenizer"

    def __call__(self, text: str | Sequence[str], **options: object) -> TokenizedText: ...

    def __len__(self) -> int: ...

    def get_vocab(self) -> dict[str, int]: ...

    def tokenize(self, text: str) -> list[str]: ...

    def add_tokens(self, new_tokens: list[str]) -> int: ...

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...


class PromptEncoder(Protocol):
    """A pipeline of diffusers that encodes prompts. It returns as many tensors as its family knows."""

    def encode_prompt(
        self, *, prompt: str, device: torch.device, num_images_per_prompt: int, do_classifier_free_guidance: bool
    ) -> Sequence[Tensor]: ...


class Scheduler(Protocol):
    """A noise schedule of diffusers."""

    config: Settings
    alphas_cumprod: Tensor
    """[T]; of diffusion alone, flow matching has none."""
