"""Embeddings from a vision model: close for images that show the same."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_prep.vision.batches import in_batches
from datasets_prep.vision.model_files import digest
from datasets_prep.vision.models import IMAGE_AND_TEXT, VisionModel, features, image_inputs

OPTION = "dedup.embed_model"
BATCH_SIZE = 32
VERSION = 1
"""Raised when the same model gives other vectors."""


class Embedder:
    """A transformers vision model: DINOv2, ViT, ConvNeXt, CLIP, SigLIP and others. It is given as a folder or Hub id.
    An embedding is the first of these that the model has: the features that CLIP and SigLIP compare with texts, the
    pooled output, the mean of the last layer over all positions."""

    def __init__(self, model: str) -> None:
        self._model_files = VisionModel(OPTION, model)
        self._config = self._model_files.config()
        self._processor = self._model_files.image_processor()
        self._model: Any = None
        self._has_pooler = True

    def identity(self) -> str:
        """Return a name for all that embeddings depend on besides the images. It needs no `load`."""
        return digest("embedding", model=self._model_files.identity(), version=VERSION)

    def load(self) -> None:
        from transformers import AutoModel

        # Checkpoints of classifiers have no pooler, and transformers would fill it with random numbers.
        self._model, lacks_pooler = self._model_files.weights(AutoModel, may_lack="pooler")
        self._has_pooler = not lacks_pooler

    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed one batch of images as unit vectors [N D] float32."""
        import torch

        with torch.inference_mode():
            inputs = image_inputs(self._processor, images, self._model.device)
            vectors = self._vectors(inputs).float()
            return torch.nn.functional.normalize(vectors).cpu().numpy()

    def _vectors(self, inputs: dict[str, Any]) -> Any:
        if self._config.model_type in IMAGE_AND_TEXT:
            return features(self._model.get_image_features(**inputs))
        output = self._model(**inputs)
        pooled = output.get("pooler_output") if self._has_pooler else None
        if pooled is not None:
            return pooled.flatten(1)  # [B D], of some [B D 1 1]
        last = output.last_hidden_state  # [B L D], of convolutions [B D H W]
        return last.mean(1) if last.ndim == 3 else last.mean((2, 3))


def cached_embeddings(
    model: str,
    keys: Sequence[bytes],
    indices: Sequence[int],
    load: Callable[[int], Image.Image],
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> np.ndarray:
    """Embed the images that `load` opens, as unit vectors [N D] float32. `keys` are the sha256 of the images, under
    which embeddings are cached in the folder; only new ones are computed."""
    embedder = Embedder(model)
    store = _Store(folder, embedder.identity())
    missing = [place for place, key in enumerate(keys) if key not in store.rows]
    if missing:
        embedder.load()
        found = in_batches(
            lambda place: load(indices[place]), lambda images: list(embedder.embed(images)), missing, BATCH_SIZE, OPTION
        )
        for done, (place, vector) in enumerate(found, 1):
            store.put(keys[place], vector)
            progress("embedding images", done, len(missing))
    return store.vectors(keys)


class _Store:
    """An append-only file of embeddings: 32 bytes of key, then the vector. Its name ends in the vector's length."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity
        found = sorted(folder.glob(f"embeddings-{identity}-*.bin"))
        self._path = found[0] if found else None
        self.rows: dict[bytes, int] = {}
        """Key -> number of the record."""
        if self._path is not None:
            whole = self._path.stat().st_size // self._record.itemsize
            os.truncate(self._path, whole * self._record.itemsize)  # the last record of a killed run
            self.rows = {bytes(key): row for row, key in enumerate(self._records()["key"])}

    @property
    def _record(self) -> np.dtype:
        assert self._path is not None
        num_values = int(self._path.stem.rpartition("-")[2])
        return np.dtype([("key", "V32"), ("vector", "<f4", (num_values,))])

    def _records(self) -> np.ndarray:
        assert self._path is not None
        if self._path.stat().st_size == 0:
            return np.zeros(0, self._record)
        return np.memmap(self._path, self._record, mode="r")

    def put(self, key: bytes, vector: np.ndarray) -> None:
        if self._path is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._folder / f"embeddings-{self._identity}-{len(vector)}.bin"
        with open(self._path, "ab") as file:
            file.write(key + vector.astype("<f4").tobytes())
        self.rows[key] = len(self.rows)

    def vectors(self, keys: Sequence[bytes]) -> np.ndarray:
        """Read the embeddings of the keys [N D]."""
        if not keys:
            return np.zeros((0, 1), np.float32)
        return self._records()["vector"][[self.rows[key] for key in keys]].astype(np.float32)
