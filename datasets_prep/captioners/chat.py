"""Prompts of chat models, with one place for the image."""

from collections.abc import Callable

Message = dict[str, object]


def chat_prompt(
    render: Callable[[list[Message]], str], instruction: str, system: str | None, image_token: str, model: str
) -> str:
    """Render the conversation with the model's own template. It expects the image as a part or in the text."""
    parts = [{"type": "image"}, {"type": "text", "text": instruction}], [{"type": "text", "text": system}]
    for said, preamble in (parts, (instruction, system), (f"{image_token}\n{instruction}", system)):
        messages: list[Message] = [] if system is None else [{"role": "system", "content": preamble}]
        messages.append({"role": "user", "content": said})
        try:
            text = render(messages)
        except Exception:  # noqa: BLE001 - a template is code of its own and raises what it likes
            continue
        if text.count(image_token) == 1 and instruction in text and "'type'" not in text:
            return text
    raise ValueError(
        f"captions.model: the chat template of {model} gives no place to the image. Fetch the model again with its "
        "tokenizer_config.json and chat_template file, or name another."
    )
