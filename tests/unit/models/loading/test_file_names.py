import os
from pathlib import Path
from typing import NoReturn

import pytest

from finetune.models.loading.file_names import under_name


def refuse(*arguments: object, **options: object) -> NoReturn:
    """Refuse as Windows does for a user without the privilege."""
    raise OSError(1314, "A required privilege is not held by the client")


@pytest.mark.parametrize("may_link", [True, False])
def test_a_file_has_another_name_where_links_are_refused_too(
    may_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not may_link:
        monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(b"weights")
    (tmp_path / "folder").mkdir()
    name = tmp_path / "folder" / "model.safetensors"
    under_name(Path("weights.bin"), name)
    assert name.read_bytes() == b"weights" and name.is_symlink() == may_link
