"""TensorBoard: event files in the run folder."""

import json
import textwrap
from collections.abc import Mapping, Sequence

from finetune.tracking.backend import LoggedFiles, PreviewRow, TrackedRun


class TensorBoard:
    """Event files in OUT/tensorboard."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(str(self._folder))
        self._writer.add_text("config", json_block(run.config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        import numpy as np
        from PIL import Image

        for number, row in enumerate(rows):
            tag = f"previews/{number:02d}"
            with Image.open(row.path) as image:
                self._writer.add_image(tag, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            self._writer.add_text(tag, json_block({"prompt": row.prompt, "seed": row.seed}), step)
        self._writer.flush()

    def log_files(self, files: LoggedFiles) -> None:
        """Record where the files are, because TensorBoard stores none."""
        paths = [str(path) for path in files.paths]
        self._writer.add_text(f"files/{files.name}", json_block({"paths": paths, "kind": files.kind, **files.metadata}))

    def finish(self, exit_code: int) -> None:
        self._writer.close()

    def notes(self) -> list[str]:
        return [f"TensorBoard: tensorboard --logdir {self._folder}"]


def json_block(values: Mapping[str, object]) -> str:
    """Return JSON as a Markdown code block, which TensorBoard shows unchanged."""
    return textwrap.indent(json.dumps(values, indent=2, ensure_ascii=False), "    ")
