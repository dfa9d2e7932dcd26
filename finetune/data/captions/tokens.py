"""Check that captions name the tokens to learn; torch-free."""

from dataclasses import replace

from finetune.config.drawing.options import read_notation
from finetune.config.outputs import PreviewConfig
from finetune.config.recipes import TokensConfig
from finetune.config.sections import DataConfig
from finetune.data.class_images import is_class_image
from finetune.data.manifest import Manifest
from finetune.plurals import first_few


def check_token_captions(
    manifest: Manifest, tokens: TokensConfig, data: DataConfig, preview: PreviewConfig
) -> Manifest:
    """Add warnings for captions and preview prompts without a new token. Raises ValueError where a token is in no
    caption at all, so nothing would be learned of it."""
    texts = [
        (record.file_name, data.template.replace("{caption}", caption))
        for record in manifest.records
        if not is_class_image(record)
        for caption in record.captions
    ]
    absent = [name for name in tokens.names if not any(name in text for _, text in texts)]
    if absent:
        raise ValueError(
            f"tokens.names: no caption of {manifest.location} ({len(texts):,} in all) contains {', '.join(absent)}, so "
            "nothing would be learned. Write the token into the captions (in lower case), or around all of them: "
            f'--data.template "{{caption}}, in the style of {absent[0]}"; without captions: --data.captions none '
            f'--data.template "an image in the style of {absent[0]}".'
        )
    warnings = list(manifest.warnings)
    without = [file_name for file_name, text in texts if not any(name in text for name in tokens.names)]
    if without:
        warnings.append(
            f"captions without a new token, which teach it nothing ({len(without):,} of {len(texts):,}): "
            f"{first_few(without)}."
        )
    read = [read_notation(line)[0].prompt for line in preview.prompts]
    prompts = [prompt for prompt in read if not any(name in prompt for name in tokens.names)]
    if prompts:
        warnings.append(f"preview.prompts without a new token ({len(prompts)}): {first_few(prompts)}.")
    return replace(manifest, warnings=tuple(warnings))
