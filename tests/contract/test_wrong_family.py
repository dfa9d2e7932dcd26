from pathlib import Path

import pytest

from finetune.models import FAMILIES, family_named
from finetune.models.family import ModelSource
from tests.support.families import save_tiny_pipeline


def test_every_other_family_refuses_the_checkpoint_and_names_the_right_one(name: str, source: ModelSource) -> None:
    for other in FAMILIES:
        if other == name:
            continue
        for part in (family_named(other).scheduler, family_named(other).tokenizers, family_named(other).load):
            with pytest.raises(ValueError, match=rf"model\.source: .*--model\.family {name}\b"):
                part(source)


def test_a_pipeline_that_no_family_reads_is_refused_with_those_that_are_known(name: str, tmp_path: Path) -> None:
    model = save_tiny_pipeline(name, tmp_path)
    index = model / "model_index.json"
    index.write_text(index.read_text().replace(family_named(name).pipelines[0], "UnheardOfPipeline"))
    with pytest.raises(ValueError, match=f"UnheardOfPipeline.*{name}"):
        family_named(name).tokenizers(ModelSource(str(model)))
