"""The gate of family names: what it refuses, and what passes."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "finetune" / "models").mkdir(parents=True)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "gates.sh", tmp_path / ".ci")
    shutil.copy(ROOT / "finetune" / "models" / "__init__.py", tmp_path / "finetune" / "models")
    return tmp_path


def refused(tree: Path, line: str) -> bool:
    (tree / "finetune" / "shared.py").write_text(f"{line}\n")
    result = subprocess.run(["bash", ".ci/gates.sh"], cwd=tree, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1) and (result.returncode == 0) == (result.stderr == ""), result.stderr
    return result.returncode == 1


@pytest.mark.parametrize(
    "line",
    [
        'if family == "sd":',
        "from finetune.models.families.sd import encode",
        "from finetune.models import base  # as in models.sd",
        "# only SDXL has this",
        'kind = "sd15"',
        '"""Works for SD 1.5."""',
        "from diffusers import StableDiffusionXLPipeline",
        "isinstance(denoiser, FluxTransformer2DModel)",
        '"""For Stable Diffusion."""',
    ],
)
def test_a_family_name_is_refused(tree: Path, line: str) -> None:
    assert refused(tree, line)


@pytest.mark.parametrize(
    "line",
    [
        '"""Read by sd-scripts."""',
        "SD_SCRIPTS_BLOCKS = {}",
        'fields = {"ss_sd_model_name": name}',
        "pip install 'sd-finetune[demo]'",
        "from finetune.models.family import Network",
        "std = influx.sd_of(values)",
    ],
)
def test_other_words_pass(tree: Path, line: str) -> None:
    assert not refused(tree, line)
