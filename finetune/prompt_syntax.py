"""Syntax in prompts and captions that only other programs interpret. Here it is plain text. Torch-free."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence

HTML = re.compile(
    r"</(?!s>)[a-z]\w*>|<(?:p|br|b|i|u|em|strong|span|div|font|a|ul|ol|li|h[1-6])(?:\s[^<>]*)?/?>"
    r"|&(?:amp|quot|lt|gt|nbsp|apos|#\d+|#x[0-9a-f]+);",
    re.IGNORECASE,
)
QUOTES = "quotes around all of it"
REFUSAL, MODEL_SIGN = "a refusal of a captioner", "a sign of a language model such as <|im_end|>"
SYNTAX: Mapping[str, re.Pattern[str]] = {
    "a wildcard such as {red|blue}": re.compile(r"\{[^{}]*\|[^{}]*\}|(?<!\w)__\w[\w/*-]*?__(?!\w)"),
    "a wildcard such as <wildcard:color>": re.compile(
        r"<(?:wildcard|random|alternate|fromto)\b[^<>]*:[^<>]*>", re.IGNORECASE
    ),
    "a schedule such as [cat:dog:0.5]": re.compile(
        r"\[[^\[\]]*\|[^\[\]]*\]|\[[^\[\]]*[^\W\d][^\[\]]*:\s*\d*\.?\d+\s*\]|\[[^\[\]:]*:[^\[\]:]*:[^\[\]]*\]"
    ),
    "empty braces {}": re.compile(r"\{\s*\}"),
    "an escaped sign such as \\(": re.compile(r"\\[()\[\]{}]"),
    "a placeholder such as [trigger]": re.compile(
        r"\[(?:trigger(?: ?word)?|name|filewords|subject|token|concept|instance|class|caption|prompt|style)\]"
        r"|\{(?:trigger|name|token|subject|prompt|instance_token|class_token)\}|(?<!\w)%[a-z_]\w*%(?!\w)|\$\{[^{}]*\}",
        re.IGNORECASE,
    ),
    "a weighted word such as (word:1.2)": re.compile(r"\([^()]*[^\W\d][)\]]*\s*:\s*\d*\.?\d+\)|\(\([^()]+\)\)"),
    "a weighted word such as word++": re.compile(
        r"(?<!\w)(?!c\+\+)[^\W\d_]\w*(?:\+{2,}(?![\w+])|-{2,}(?=\s*(?:[,.)]|$)))"
        r"|\([^()]*[^\W\d][^()]*\)(?:\d*\.\d+|\++|-+(?=\s*(?:[,.)]|$)))",
        re.IGNORECASE,
    ),
    "a weighted word such as {word} or [[word]]": re.compile(
        r"(?<!\$)\{(?!\s*(?:caption|trigger|name|token|subject|prompt|instance_token|class_token)?\s*\})[^{}|]+\}"
        r"|\[\[[^\[\]|:]+\]\]"
    ),
    "a weighted part such as word::2": re.compile(
        r"(?<![\w.])-?\d+(?:\.\d+)?::[^:\[\]{}|]+::|[^\W\d_]\s*::\s*-?\d+(?:\.\d+)?(?=[\s,]|$)"
    ),
    "parts joined by AND": re.compile(
        r"(?<=[^\sA-Z])\s+AND\s+(?=[^\sA-Z]|[A-Z](?![A-Z\s]))|[\"')]\s*\)?\.(?:and|blend|swap)\("
    ),
    "an embedding such as embedding:name": re.compile(r"(?<![\w:<])embedding:[\w.\\/-]+", re.IGNORECASE),
    MODEL_SIGN: re.compile(r"<\|[a-z_]+\|>|</s>|<image>|\[/?INST\]", re.IGNORECASE),
    "markup such as </p> or &amp;": HTML,
    "a network such as <lora:name:1>": re.compile(
        r"<(?:lora|lyco|lycoris|loha|hypernet|embedding):[^<>]*>", re.IGNORECASE
    ),
    REFUSAL: re.compile(
        r"^\W*(?:(?:i'm|i am) (?:really |very |so )?sorry\b|sorry, (?:but )?i\b|i apologi[sz]e\b|unfortunately, i\b"
        r"|i (?:can't|cannot|can not|won't|am unable|am not able)\b|i'm (?:unable|not able)\b|as an ai\b)",
        re.IGNORECASE,
    ),
    "a heading such as Caption:": re.compile(
        r"^[\s*#_>]*(?:caption|description|tags|prompt|answer|response|assistant|output)[\s*_]*:|\*\*[^*]+\*\*|^#+\s",
        re.IGNORECASE,
    ),
    "a sign of a list such as - or 1.": re.compile(r"^\s*(?:[-*•‣]\s+|\d{1,2}[.)]\s+)(?=[^\W\d])"),
    "tags with spaces between them and not commas": re.compile(
        r"^\s*(?=[^\s,]+(?:\s+[^\s,]+)+\s*$)(?=(?:.*?[^\W\d_]_[^\W_]){2})[^,.;]+$"
    ),
    QUOTES: re.compile(r"^\s*(?:\"[^\"]+\"|'[^']+'|“[^“”]+”|‘[^‘’]+’|«[^«»]+»|`[^`]+`),?\s*(?=$|--[a-z])"),
    "an option such as --w 32": re.compile(r"(?:^|\s)--[a-z][\w-]*(?=\s|=|$)", re.IGNORECASE),
    "the separator BREAK": re.compile(r"(?<!\S)BREAK(?![^\s,.])"),
    "generation parameters": re.compile(r"(?:^|\s)(?:Negative prompt:|Steps: \d+, )"),
}
"""Description with an example -> pattern."""
EXPANDED = "; --data.expand_syntax true of a recipe reads it"
ADVICE = {
    "{red|blue}": EXPANDED,
    "(word:1.2)": EXPANDED,
    "\\(": EXPANDED,
    "markup": EXPANDED,
    "quotes around": EXPANDED,
    "with spaces between": "; write commas between them, and spaces for their underscores",
    "refusal": "; write another",
    "[trigger]": "; --data.trigger WORDS of a recipe replaces [trigger] and [name]",
}
"""What to do about syntax in captions, by a part of its description."""
OPENING = re.compile(
    r"^\W*(?:i'?\b|sorry|unfortunately|as an|caption|description|tags|prompt|answer|response|assistant|output|\d)"
    r"|^\s*[-*•‣#>\"'“‘«`]",
    re.IGNORECASE,
)
SIGNS = re.compile(r"[{\[(<_\\%-]|BREAK|Negative|Steps:|AND|::|\+\+|embedding:|&|\.(?:and|blend|swap)\(", re.IGNORECASE)
"""Texts with neither of these have no such syntax."""
PATH = re.compile(r"\S+\.(?:txt|json|jsonl|csv|ya?ml|toml|lst|md)|(?:~|\.{1,2})?/\S+", re.IGNORECASE)


def syntax_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of other programs' syntax."""
    if SIGNS.search(text) or OPENING.search(text):
        for name, pattern in SYNTAX.items():
            if found := pattern.search(text):
                yield name, found.group().strip()


def caption_warning(name: str) -> str:
    """Return the warning about captions with such syntax."""
    advice = next((text for sign, text in ADVICE.items() if sign in name), "")
    return f"images whose caption has {name}, which is not interpreted but trained on as it is{advice}"


def is_path(text: str) -> bool:
    """Distinguish a file's path from a prompt."""
    return PATH.fullmatch(text.strip()) is not None or (os.sep in text and os.path.isfile(text))


def path_problems(option: str, prompts: Sequence[str | None]) -> list[str]:
    """Return a sentence for each prompt that is a path."""
    return [
        f"{option}: got the path {prompt}, expected a prompt. Write the prompt out."
        for prompt in prompts
        if prompt is not None and is_path(prompt)
    ]


def prompt_warnings(prompts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one sentence per option with prompts that other programs interpret."""
    warnings = []
    for option, texts in prompts.items():
        if found := list(dict.fromkeys(name for text in texts for name, _ in syntax_in(text))):
            first = next(text for text in texts if any(syntax_in(text)))
            warnings.append(
                f'{option}: "{first[:80]}" has {" and ".join(found)}, which is not interpreted but passed to the '
                "model as it is. Write what you mean in words."
            )
    return warnings
