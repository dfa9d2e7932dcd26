"""Prompts of chat models, with one place for the image."""

from collections.abc import Callable, Sequence

Message = dict[str, object]


def chat_prompt(
    render: Callable[[list[Message]], str], instruction: str, system: str | None, image_token: str, model: str
) -> str:
    """Render the conversation with the model's own template. Templates expect the image as a part of the message or in
    its text."""
    parts: list[Message] = [_message("user", [{"type": "image"}, {"type": "text", "text": instruction}])]
    plain: list[Message] = [_message("user", instruction)]
    marked: list[Message] = [_message("user", f"{image_token}\n{instruction}")]
    if system is not None:
        parts.insert(0, _message("system", [{"type": "text", "text": system}]))
        plain.insert(0, _message("system", system))
        marked.insert(0, _message("system", system))
    for messages in (parts, plain, marked):
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


def _message(role: str, content: object) -> Message:
    return {"role": role, "content": content}


def expanded(texts: Sequence[str], image_token: str, counts: Sequence[int]) -> list[str]:
    """Repeat the image token as often as the image has tokens."""
    return [text.replace(image_token, image_token * count) for text, count in zip(texts, counts, strict=True)]
