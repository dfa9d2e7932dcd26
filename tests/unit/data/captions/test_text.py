import pytest

from finetune.data.captions.text import CaptionLines, caption_text, decode_text

PARAGRAPHS = "A dog sits on a red carpet.\nThe carpet has a pattern.\n\nBehind it is a window."
WRAPPED = "A red car stands in front of a house and\nthe sun is shining on it."


RUNNING = [PARAGRAPHS, WRAPPED, "one\r\n\r\ntwo", "a woman in a long dress walks down a\nnarrow street"]
RUNNING += ["1girl, solo, smile,\nlong hair", "a boat on the sea\nwhile the sun sets", "窓辺に座っている\n白い猫。"]
RUNNING += ["A dog sits there.\nIt looks to the left.", "A long line of words about a dog. " * 5 + "\nAnother line."]
SEPARATE = ["a boat\r\nein Boot\r\n", "a red car\na car in the rain", "A car.\nA red car.\n\n", "白い猫\n黒い犬"]
SEPARATE += ["白い猫。\n黒い犬。", "one\n", WRAPPED.replace("\n", " ")]


def test_paragraphs_and_wrapped_sentences_are_noticed_and_nothing_else() -> None:
    assert [text for text in RUNNING if not caption_text(text).looks_wrapped] == []
    assert [text for text in SEPARATE if caption_text(text).looks_wrapped] == []


@pytest.mark.parametrize(
    ("text", "lines", "captions"),
    [
        ("one\ntwo\n", None, ["one", "two"]),
        ("one\ntwo\n", "alternatives", ["one", "two"]),
        ("one\ntwo\n", "first", ["one"]),
        ("1girl\nlong hair,\nsolo\n", "joined", ["1girl, long hair, solo"]),
        ("夜の海に浮かぶ船\n月の光\n", "joined", ["夜の海に浮かぶ船、月の光"]),
        ("猫、\n犬，\n鳥、", "joined", ["猫、犬、鳥"]),
        ("猫\n1girl, solo", "joined", ["猫, 1girl, solo"]),
        ("窓辺に座っている白い猫が\n外を見ている。", "joined", ["窓辺に座っている白い猫が外を見ている。"]),
        ("一只白色的猫坐在靠近花园的窗边\nA4の紙", "joined", ["一只白色的猫坐在靠近花园的窗边 A4の紙"]),
        ("ein rotes Boot\nauf dem See", "joined", ["ein rotes Boot, auf dem See"]),
        ("une femme assise dans un jardin\nle soir", "joined", ["une femme assise dans un jardin le soir"]),
        (WRAPPED, "joined", [WRAPPED.replace("\n", " ")]),
        (".,\n", None, []),
        ("dog\n.,\n", None, ["dog"]),
        ("🐭", None, ["🐭"]),
        ("a cat\nNegative prompt: ugly\nSteps: 20, Sampler: Euler\n", None, ["a cat"]),
        ("0 0.5 0.5 0.1 0.1\n3 0.25 0.5 0.1 0.2\n", None, []),
    ],
)
def test_the_lines_become_captions(text: str, lines: CaptionLines | None, captions: list[str]) -> None:
    assert caption_text(text).captions(lines) == captions


def test_windows_1252_and_utf_32_are_read() -> None:
    assert decode_text(b"dog\x92s \x93bed\x94 \x81") == ("dog\u2019s \u201cbed\u201d \x81", True)
    assert decode_text("dog\u2019s".encode("utf-32")) == ("dog\u2019s", False)
