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
    ("line", "is_refused"),
    [
        ('if family == "sd":', True),
        ("from finetune.models.families.sd import encode", True),
        ("from finetune.models import base  # as in models.sd", True),
        ("# only SDXL has this", True),
        ('kind = "sd15"', True),
        ('"""Works for SD 1.5."""', True),
        ("from diffusers import StableDiffusionXLPipeline", True),
        ("isinstance(denoiser, FluxTransformer2DModel)", True),
        ('"""For Stable Diffusion."""', True),
        ('"""Read by sd-scripts."""', False),
        ("SD_SCRIPTS_BLOCKS = {}", False),
        ('fields = {"ss_sd_model_name": name}', False),
        ("pip install 'sd-finetune[demo]'", False),
        ("from finetune.models.family import Network", False),
        ("std = influx.sd_of(values)", False),
    ],
)
def test_a_family_name_is_refused_and_other_words_pass(tree: Path, line: str, is_refused: bool) -> None:
    assert refused(tree, line) == is_refused
