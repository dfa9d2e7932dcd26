"""Arrays and conditions in shell files; torch-free."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

UNIX, POWERSHELL, BATCH = "\\", "`", "^"
"""Kinds of shell files, by the sign that continues a line."""
CONDITIONAL = "under_conditions"
"""The option that lists what a file adds under conditions."""
ARRAYS = {
    UNIX: re.compile(r"\s*(?:declare\s+-a\s+)?(\w+)\+?=\((.*)", re.DOTALL),
    POWERSHELL: re.compile(r"\s*\$(\w+)\s*\+?=\s*@\((.*)", re.DOTALL),
}
ADDED = re.compile(r"\s*(?:\[void\]\s*)?\$(\w+)\.Add\((.*)\)\s*(?:\|\s*Out-Null\s*)?", re.IGNORECASE)
EMPTY = re.compile(r"\s*\$(\w+)\s*=\s*(?:\[System\.Collections\.[^\]]+\]+::new\(\)|New-Object\s.*)", re.IGNORECASE)
TABLE = re.compile(r"\s*\$(\w+)\s*=\s*@\{")
SPLICED = {
    UNIX: re.compile(r"\$\{(\w+)\[[@*]\]\}"),
    POWERSHELL: re.compile(r"[@$]\{?(\w+)\}?"),
}
BEGINS = {
    UNIX: re.compile(r"\s*(?:if|case|for|while)\b.*"),
    POWERSHELL: re.compile(r".*\{\s*"),
    BATCH: re.compile(r".*\(\s*"),
}
ENDS = {
    UNIX: re.compile(r"(?:.*;)?\s*(?:fi|esac|done)\b.*"),
    POWERSHELL: re.compile(r"\s*\}.*"),
    BATCH: re.compile(r"\s*\).*"),
}
ON_ONE_LINE = {
    UNIX: re.compile(r"\s*if\b.*?;\s*then\s+(.*?);?\s*fi\s*"),
    POWERSHELL: re.compile(r"\s*if\s*\(.*?\)\s*\{(.*)\}\s*", re.IGNORECASE),
}
COMMAS = re.compile(r"""(["'\w])\s*,\s*(?=["'\w$-])""")


@dataclass
class ShellLists:
    """Arrays by name, and what is added under conditions."""

    mark: str
    lists: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    conditional: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    depth: int = 0
    """Blocks of conditions and loops around the line."""

    def follow(self, line: str) -> None:
        """Count the blocks around a line."""
        begins, ends = (found[self.mark].fullmatch(line) is not None for found in (BEGINS, ENDS))
        if begins != ends:
            self.depth = self.depth + 1 if begins else max(0, self.depth - 1)

    def read(self, number: int, line: str, words: Callable[[str], Sequence[str]]) -> bool:
        """Take a line that makes or extends an array; false for others. Raises ValueError for a table of options."""
        if self.mark == POWERSHELL and TABLE.match(line):
            raise ValueError(
                f"line {number} makes a table of options (@{{...}}), which is not read. Write the options behind the "
                "script's name, or in an array @(...)."
            )
        if self.mark == POWERSHELL and (made := EMPTY.fullmatch(line)):
            self.lists.setdefault(self.name(made[1]), [])
            return True
        array = ARRAYS[self.mark].fullmatch(line) if self.mark in ARRAYS else None
        found = array or (ADDED.fullmatch(line) if self.mark == POWERSHELL else None)
        if found is None:
            return False
        inner = found[2].strip().removesuffix(")") if array else found[2]
        self.add(self.name(found[1]), words(COMMAS.sub(r"\1 ", inner) if self.mark == POWERSHELL else inner))
        return True

    def add(self, name: str, words: Sequence[str]) -> None:
        """Add words to an array, or to what depends on conditions."""
        kept = [word.rstrip(",") if self.mark == POWERSHELL else word for word in words]
        place = self.conditional if self.depth else self.lists
        place.setdefault(name, []).extend(kept)
        if self.depth:
            self.lists.setdefault(name, [])

    def name(self, text: str) -> str:
        """Spell a variable. Case means nothing on Windows."""
        return text if self.mark == UNIX else text.lower()

    def spliced(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the words of a command and of its arrays."""
        for word in words:
            match = SPLICED[self.mark].fullmatch(word) if self.mark in SPLICED else None
            if match is not None and (name := self.name(match[1])) in self.lists:
                yield from self.lists[name]
            else:
                yield word

    def left_out(self, words: Sequence[str]) -> list[str]:
        """Return what a command may have by conditions. Nothing evaluates them."""
        text = " ".join(words)
        names = [name for name in self.conditional if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
        return [part for name in names for part in self.conditional[name]]


def whole_arrays(lines: Iterator[tuple[int, str]], mark: str) -> Iterator[tuple[int, str]]:
    """Yield each array as one line. Conditions on one line become three."""
    for number, line in lines:
        if mark in ON_ONE_LINE and (short := ON_ONE_LINE[mark].fullmatch(line)):
            yield number, "if" if mark == UNIX else "{"
            yield number, short[1]
            yield number, "fi" if mark == UNIX else "}"
            continue
        text = line
        if mark in ARRAYS and ARRAYS[mark].fullmatch(line):
            while _is_open(text):
                following = next(lines, None)
                if following is None:
                    break
                text += f"\n{following[1]}"
        yield number, text


def _is_open(text: str) -> bool:
    """Tell if a parenthesis outside quotes is not closed yet."""
    plain = re.sub(r""""[^"\n]*"|'[^'\n]*'|(?<!\S)#.*""", "", text)
    return plain.count("(") > plain.count(")")
