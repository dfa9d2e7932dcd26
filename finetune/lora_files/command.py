"""Command lines of `finetune lora` that read a base model; torch-free."""

from collections.abc import Callable, Sequence

from finetune.config.parse.command_line import parse
from finetune.lora_files.options import ConvertConfig, EffectConfig, ExtractConfig, MergeConfig

Say = Callable[[str], None]


def parse_files(action: str, words: Sequence[str]) -> Callable[[Say], object]:
    """Return the work of a command line. Raises ValueError for wrong options."""
    num = next((place for place, text in enumerate(words) if text.startswith("-")), len(words))
    named, flags, program = list(words[:num]), list(words[num:]), f"finetune lora {action}"
    if action == "extract":
        for key, value in zip(("--tuned", "--model.source"), named, strict=False):
            flags += [key, value]
        extraction = parse(ExtractConfig, flags, program=program)

        def extracting(say: Say) -> object:
            from finetune.lora_files.extract import extract

            return extract(extraction, say)

        return extracting
    if action != "convert" and named and not any(text.startswith(("--model.source", "--config")) for text in flags):
        flags += ["--model.source", named.pop(0)]
    flags += ["--files", *named] if named else []
    if action == "effect":
        measured = parse(EffectConfig, flags, program=program)

        def measuring(say: Say) -> object:
            from finetune.lora_files.effect import measure_effect

            return measure_effect(measured, say)

        return measuring
    if action == "convert":
        conversion = parse(ConvertConfig, flags, program=program)

        def converting(say: Say) -> object:
            from finetune.lora_files.convert import convert

            return convert(conversion, say)

        return converting
    merged = parse(MergeConfig, flags, program=program)

    def merging(say: Say) -> object:
        from finetune.lora_files.merge import merge

        return merge(merged, say)

    return merging
