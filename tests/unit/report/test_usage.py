import ast
import shlex
from pathlib import Path

from finetune.report.usage import Usage, exported_step, find_exported, usages
from tests.support.scored_run import write_export


def by_program(folder: Path, strength: float | None = 0.75) -> dict[str, Usage]:
    exported = find_exported(folder)
    assert exported is not None
    return {usage.program: usage for usage in usages(exported, "base/model", strength, ['a "cat"'])}


def test_a_lora_is_used_by_its_exact_names_at_the_chosen_strength(tmp_path: Path) -> None:
    folder = tmp_path / "ink"
    write_export(folder / "export", 200)
    found = by_program(folder)
    assert f"{folder}/export/ink.safetensors to models/loras" in found["ComfyUI"].steps[0]
    assert "strength_model 0.75" in found["ComfyUI"].steps[0]
    assert "<lora:ink:0.75>" in found["A1111, Forge"].steps[0]
    code = found["diffusers"].code
    assert f'load_lora_weights("{folder}/export"' in code and 'set_adapters("tuned", 0.75)' in code
    ast.parse(code)
    command = shlex.split(found["finetune generate"].code)
    assert f"{folder}/export/ink.safetensors:0.75" in command and 'a "cat"' in command
    assert exported_step(find_exported(folder)) == 200


def test_new_tokens_are_used_by_their_names(tmp_path: Path) -> None:
    for name in ("embeddings/<ink>.safetensors", "embeddings/<ink>/learned_embeds_2.safetensors"):
        (tmp_path / "export" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "export" / name).write_bytes(b"")
    found = by_program(tmp_path, None)
    assert "embedding:<ink>" in found["ComfyUI"].steps[0] and "write <ink> in" in found["A1111, Forge"].steps[0]
    assert "tokenizer=pipeline.tokenizer_2" in found["diffusers"].code
    ast.parse(found["diffusers"].code)


def test_a_pipeline_is_loaded_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model_index.json").write_text("{}")
    found = by_program(tmp_path)
    assert f'from_pretrained("{tmp_path}/export")' in found["diffusers"].code
    assert "load_lora_weights" not in found["diffusers"].code and "single file" in found["A1111, Forge"].steps[0]


def test_nothing_exported_is_nothing_to_use(tmp_path: Path) -> None:
    assert find_exported(tmp_path) is None and exported_step(None) is None
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "torn.safetensors").write_bytes(b"torn")
    assert exported_step(find_exported(tmp_path)) is None
