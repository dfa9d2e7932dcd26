import json
import unicodedata
from pathlib import Path

import pytest

from datasets_prep.captions.own import read_folder_entries
from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Findings
from finetune.data.manifest import read_manifest
from finetune.data.visible_files import FolderSource
from tests.support.images import captions, listed, listing, mistakes, picture, write

Files = dict[str, bytes | str]
P, Q = picture("red"), picture("blue")
COCO = '{"images": [{"id": 7, "file_name": "x.png"}], "annotations": [{"image_id": 7, "caption": "a cat"}]}'


def both(folder: Path, files: Files, column: str = "text") -> dict[str, tuple[str, ...]]:
    """The captions that recipes read, which are those that preparation reads."""
    manifest = read_manifest(write(folder, files), reading=CaptionReading(column, "alternatives"))
    found = captions(manifest)
    findings, root = Findings(), str(folder)
    reading = CaptionReading(column, "alternatives", is_training=False)
    entries = read_folder_entries(root, FolderSource(root).read, sorted(files), reading, findings)
    assert {name: entry.captions for name, entry in entries.items() if name in found} == found
    findings.raise_errors("", "")
    return found


@pytest.mark.parametrize(
    ("name", "content", "caption"),
    [
        ("x.png.txt", "a cat", "a cat"),
        ("x.jpg.txt", "a cat", "a cat"),
        ("x.caption", "a cat", "a cat"),
        ("x.txt", '{"caption": "a cat", "score": 3}', "a cat"),
        ("X.TXT", "a cat", "a cat"),
        ("x.json", '{"tag_string": "1girl long_hair ^_^"}', "1girl, long hair, ^_^"),
        ("x.png.json", '{"tag_string": "1girl, solo"}', "1girl, solo"),
        ("x.png.json", '{"tags": {"general": ["long_hair", "solo"], "artist": ["me"]}}', "long hair, solo, me"),
        ("x.png.json", '{"tags": {"my tags": {"display_tags": {"0": ["red car", "sky"]}}}}', "red car, sky"),
        ("x.json", '{"prompt": "a cat", "negative_prompt": "a dog", "seed": 3}', "a cat"),
        ("x.json", '{"caption": "a cat", "tags": "cat, sofa"}', "a cat, cat, sofa"),
        ("captions.json", '{"x.png": "a cat"}', "a cat"),
        ("captions.json", '{"x": {"caption": "a cat"}}', "a cat"),
        ("captions.json", '[{"image": "images/x.png", "caption": "a cat"}]', "a cat"),
        ("meta_cap.json", '{"/data/train/x.png": {"caption": "a cat"}}', "a cat"),
        ("meta_lat.json", '{"D:\\\\t\\\\x": {"caption": "a cat", "tags": "sofa"}}', "a cat, sofa"),
        ("coco.json", COCO, "a cat"),
        ("captions.csv", "file_name;caption\nx.png;a cat, red\n", "a cat, red"),
        ("prompts.tsv", "image\tprompt\nx.png\ta cat\n", "a cat"),
        ("captions.txt", "image,caption\nx.png,a cat\n", "a cat"),
        ("captions.csv", "x.png,a cat\n", "a cat"),
        ("captions.csv", "file|caption\nx.png|a cat, red\n", "a cat, red"),
        ("list.csv", "Image,Caption\nx.png,a cat\n", "a cat"),
        ("x.txt", '```json\n{"caption": "a cat"}\n```\n', "a cat"),
        ("x.txt", '"a cat"', "a cat"),
        ("captions.txt", "x.png: a cat\n\n", "a cat"),
        ("list.txt", "x.png a cat", "a cat"),
        ("captions.jsonl", '{"file_name": "x.png", "text": "a cat"}\n', "a cat"),
        ("captions/x.txt", "a cat", "a cat"),
        ("metadata.csv", "file_name,text\nx.png,a cat, on a mat\n", "a cat, on a mat"),
        ("metadata.jsonl", '{"file_name": ".\\\\x.png", "text": "a cat"}', "a cat"),
        ("tags.csv", "x.png,1girl,solo, hat\ny.png,cat\n", "1girl,solo, hat"),
        ("tags.csv", "filename,tags\nx.png,1girl,solo\n", "1girl,solo"),
        ("tags.csv", "filename,tags,\nx.png,a cat,\n", "a cat"),
        ("all.token.txt", "x.png#0\ta cat\n", "a cat"),
        ("data.json", '{"image": ["x.png"], "caption": ["a cat"], "size": [3]}', "a cat"),
        ("data.json", '{"image": {"0": "x.png"}, "caption": {"0": "a cat"}}', "a cat"),
        ("metadata.csv", "file_name;text\nx.png;a cat\n", "a cat"),
        ("metadata.csv", "filename,caption\nx.png,a cat\n", "a cat"),
        ("metadata.jsonl", '{"file_name": "X.png", "caption": "a cat"}\n', "a cat"),
        ("metadata.csv", "file_name,prompt,negative_prompt\nx.png,a cat,a dog\n", "a cat"),
        ("metadata.jsonl", '{"file_name": "x.png", "text_prompt": "a cat", "seed": 3}\n', "a cat"),
        ("captions.csv", "file_name,text_prompt\nx.png,a cat\n", "a cat"),
    ],
)  # fmt: skip
def test_captions_are_read_by_recipes_and_preparation(tmp_path: Path, name: str, content: str, caption: str) -> None:
    assert both(tmp_path, {"x.png": P, name: content}) == {"x.png": (caption,)}


@pytest.mark.parametrize(
    ("content", "caption", "rating"),
    [
        ('{"tag_string": "1girl solo_focus", "rating": "s"}', "1girl, solo focus", "rating:s"),
        ('{"tags": {"general": ["long_hair"], "rating": ["explicit"]}}', "long hair", "rating:explicit"),
        ('{"tags": {"rating": "g", "character": ["zkw"]}, "rating": "g"}', "zkw", "rating:g"),
    ],
)
def test_ratings_are_tags_where_wanted_and_said_otherwise(
    tmp_path: Path, content: str, caption: str, rating: str
) -> None:
    assert both(tmp_path, {"x.png": P, "x.png.json": content}) == {"x.png": (caption,)}
    warnings = read_manifest(str(tmp_path)).warnings
    assert any("ratings" in text and "--data.keep_rating true" in text and "x.png.json" in text for text in warnings)
    kept = read_manifest(str(tmp_path), reading=CaptionReading(keeps_rating=True))
    assert captions(kept) == {"x.png": (f"{caption}, {rating}",)} and not kept.warnings


def test_a_rating_without_tags_is_not_a_caption(tmp_path: Path) -> None:
    """A number may rate anything."""
    write(tmp_path, {"x.png": P, "x.png.json": '{"caption": "a cat", "rating": 5, "tags": ["cat"], "id": 3}'})
    kept = read_manifest(str(tmp_path), reading=CaptionReading(keeps_rating=True))
    assert captions(kept) == {"x.png": ("a cat", "cat")}


def test_objects_in_a_caption_column_are_named_and_lists_of_tags_are_said(tmp_path: Path) -> None:
    row = {"file_name": "x.png", "text": {"short": "a cat", "long": "a cat on a mat"}}
    message = mistakes(write(tmp_path / "object", {"x.png": P, "metadata.jsonl": listing(row)}))
    assert "x.png (an object with short, long)" in message and "name a column of texts" in message
    findings, root = Findings(), str(tmp_path / "object")
    reading = CaptionReading(is_training=False)
    read_folder_entries(root, FolderSource(root).read, ["metadata.jsonl", "x.png"], reading, findings)
    with pytest.raises(ValueError, match=r"--caption_column.*metadata\.jsonl: x\.png \(an object with short, long"):
        findings.raise_errors("", "")
    lists = {"tags": ["1girl", "long hair", "solo"], "captions": ["a cat sleeps on a red mat", "a cat", "mat"]}
    for kind, texts in lists.items():
        folder = write(tmp_path / kind, {"x.png": P, "metadata.jsonl": listing({"file_name": "x.png", "text": texts})})
        manifest = read_manifest(str(folder))
        assert captions(manifest) == {"x.png": tuple(texts)}
        assert any("lists of short texts" in text for text in manifest.warnings) == (kind == "tags")


BOX = '"bbox": [1, 2, 3, 4]'
DETECTED = f'{{"images": [{{"id": 7, "file_name": "x.png"}}], "annotations": [{{"image_id": 7, {BOX}}}]}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("annotations.json", DETECTED),
        ("x.json", f'{{"objects": [{{"label": "red cat", {BOX}}}]}}'),
        ("x.json", '{"shapes": [{"label": "red cat", "points": [[1, 2], [3, 4]]}]}'),
        ("labels.csv", "filename,xmin,ymin,xmax,ymax,label\nx.png,1,2,3,4,red cat\n"),
        ("x.xml", "<annotation><object><name>red cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"),
        ("x.txt", "0 0.5 0.5 0.25 0.25\n"),
    ],
)
def test_boxes_of_an_object_detector_are_said_not_to_be_captions(tmp_path: Path, name: str, content: str) -> None:
    files: Files = {"x.png": P, name: content, "y.png": Q, "y.txt": "a dog"}
    findings, root = Findings(), write(tmp_path, files)
    reading = CaptionReading(is_training=False)
    found = read_folder_entries(root, FolderSource(root).read, sorted(files), reading, findings)
    findings.raise_errors("", "")
    assert (
        found["x.png"].captions == ()
        and f"boxes of an object detector, which are not captions (1): {name}" in (findings.warnings[0])
    )
    assert "without a caption (1): x.png" in mistakes(root)


def test_boxes_hide_no_description(tmp_path: Path) -> None:
    content = f'{{"regions": [{{"description": "a red cat", {BOX}}}]}}'
    assert "x.json (it has description" in mistakes(write(tmp_path, {"x.png": P, "x.json": content}))


def test_a_list_or_an_object_written_as_text_is_not_a_caption(tmp_path: Path) -> None:
    for text in ("['cat', 'dog']", '["cat"]', "{'bbox': [[1, 2, 3, 4]], 'category': [0]}", "[{'label': 'cat'}]"):
        message = mistakes(listed(tmp_path, {"file_name": "a.png", "text": text}))
        assert f"a.png (a list or an object written as text: {text[:40]}" in message
    for text in ("[cat], dog", "a {red|blue} cat", "['cat'] on a mat", "(dog: 'rex')"):
        manifest = read_manifest(listed(tmp_path, {"file_name": "a.png", "text": text}))
        assert captions(manifest) == {"a.png": (text,)}


def test_names_fit_however_unicode_composes_them(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert both(tmp_path / "text", {f"{apart}.png": P, f"{composed}.txt": "a cup"}) == {f"{apart}.png": ("a cup",)}
    row = listing({"file_name": f"{apart}.png", "text": "a cup"})
    assert both(tmp_path / "listing", {f"{composed}.png": P, "metadata.jsonl": row}) == {f"{composed}.png": ("a cup",)}
    files: Files = {f"{apart}.png": P, f"{composed}.png": Q, f"{apart}.txt": "apart", f"{composed}.txt": "composed"}
    assert both(tmp_path / "both", files) == {f"{apart}.png": ("apart",), f"{composed}.png": ("composed",)}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", '{"description": "a red cat on a mat"}', ["x.json (it has description", "data.caption_column"]),
        ("x.json", '{"caption": "a red', ["x.json (not JSON"]),
        ("captions.csv", "file_name,description\nx.png,a red cat\n", ["captions.csv (it has description"]),
        ("x.yaml", "caption: a cat", ["x.yaml (a .yaml beside an image is not read)"]),
        ("prompts.txt", "a red cat\na blue dog\n", ["prompts.txt (its lines name no images)"]),
        ("captions.json", '{"x.png": "a ', ["captions.json (not JSON"]),
        ("list.json", '{"x.png": "a ', ["list.json (not JSON"]),
        ("x.png.json", '["a cat", "sofa"]', ["x.png.json (it is a list of texts"]),
        ("x.txt", '["a cat", "sofa"]', ["x.txt (it is a list of texts"]),
        ("x.txt", '{"caption": "a red', ["x.txt (not JSON"]),
        ("x.txt", "{\\rtf1 a cat}", ["x.txt (it is rich text (RTF)"]),
        ("x.wd14.txt", "1girl", ["x.wd14.txt (its name is nearly that of x.png)"]),
        ("captions.csv", "id,caption\nx,a cat\n", ["captions.csv (it has the columns id, caption, of which none is"]),
        ("captions.xlsx", "PK", ["captions.xlsx (.xlsx is not read)"]),
        ("llava.json", '[{"image": "x.png", "conversations": [{"value": "a red cat"}]}]', ["llava.json (it has conv"]),
        ("x.json", '{"tags": {"1girl": 0.99}}', ["x.json (its caption or tags are an object with 1girl, not text"]),
        ("x.json", '{"caption": 5, "tags": {"cat": 1}}', ["x.json (its caption or tags are int, not text"]),
        ("x.json", '{"caption": {"en": "cat"}}', ["x.json (its caption or tags are an object with en, not text"]),
        ("x.json", '{"long_caption": "cat"}', ["x.json (it has long_caption"]),
        ("x.json", '[{"caption": "a cat"}, {"caption": "a dog"}]', ["x.json (it is a list of 2 objects with captions"]),
        (
            "list.json",
            '[{"image": "x.png", "caption": {"en": "cat"}}]',
            ["list.json (x.png: its caption or tags are an"],
        ),
        (
            "llava.json",
            '[{"image": "d/x.png", "conversations": [{"value": "cat"}]}]',
            ["llava.json (it has conversati"],
        ),
        ("annotations.jsonl", '{"image_path": "d/x.png", "long_caption": "cat"}', ["(it has long_caption"]),
        ("x.xmp", "<a><dc:description><rdf:li>a cat</rdf:li></dc:description></a>", ["it has a dc:description"]),
        ("x.xml", "<annotation><caption>a cat</caption></annotation>", ["x.xml (a .xml beside an image is not read"]),
        ("x.srt", "1\n00:00:00,000 --> 00:00:02,000\na cat\n", ["x.srt (a .srt beside an image is not read)"]),
        ("x.txt", "1\n00:00:00,000 --> 00:00:02,000\na cat\n", ["x.txt (it has the times of subtitles)"]),
        ("x.txt", "['cat', 'long hair']", ["x.txt (it is a list or an object written as text)"]),
        ("x.html", "<p>1girl, solo</p>", ["x.html (a .html beside an image is not read; it has a p)"]),
        ("captions.csv", "file_name,caption\nx.png,\"['cat', 'dog']\"\n", ["(x.png: its caption or tags are a list"]),
        ("captions.json", '{"other.png": "a cat"}', ["captions.json (it names no image that there is, e.g. other.png"]),
    ],
)
def test_what_is_not_understood_stops_the_run(tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    message = mistakes(write(tmp_path, {"x.png": P, name: content}))
    assert all(word in message for word in words), message
    findings, reading = Findings(), CaptionReading(is_training=False)
    read_folder_entries(str(tmp_path), FolderSource(str(tmp_path)).read, ["x.png", name], reading, findings)
    with pytest.raises(ValueError, match=name):
        findings.raise_errors("", "")


@pytest.mark.parametrize("encoding", ["shift_jis", "gb18030", "euc_kr", "cp1251", "cp1253"])
def test_a_text_in_an_encoding_that_is_not_read_stops_the_run(tmp_path: Path, encoding: str) -> None:
    texts = {"cp1251": "белая кошка", "cp1253": "λευκή γάτα", "euc_kr": "하얀 고양이"}
    data = texts.get(encoding, "白猫在花園").encode(encoding)
    message = mistakes(write(tmp_path / "other", {"x.png": P, "x.txt": data}))
    assert "x.txt (in an encoding that is not read" in message
    western = "un café, l'été, größer, où".encode("cp1252")
    assert both(tmp_path / "western", {"x.png": P, "x.txt": western}) == {"x.png": ("un café, l'été, größer, où",)}
    assert both(tmp_path / "short", {"x.png": P, "x.txt": "été".encode("cp1252")}) == {"x.png": ("été",)}


def test_texts_of_one_image_in_two_folders_stop_the_run(tmp_path: Path) -> None:
    files: Files = {"images/x.png": P, "images/y.png": Q, "y.txt": "", "long/x.txt": "a grey cat", "short/x.txt": "cat"}
    assert "long/x.txt (its name is nearly that of images/x.png)" in mistakes(write(tmp_path, files))


@pytest.mark.parametrize("text", ["nan", "None", "NULL\n", "n/a"])
def test_what_programs_write_for_nothing_is_not_a_caption(tmp_path: Path, text: str) -> None:
    message = mistakes(write(tmp_path / "text", {"x.png": P, "x.txt": text, "y.png": Q, "y.txt": "a dog"}))
    assert "images without a caption (1): x.png" in message
    table = f"file_name,text\nx.png,{text.strip()}\ny.png,a dog\n"
    message = mistakes(write(tmp_path / "table", {"x.png": P, "y.png": Q, "metadata.csv": table}))
    assert "images without a caption (1): x.png" in message


def test_the_named_column_reads_what_was_not_understood(tmp_path: Path) -> None:
    found = both(tmp_path, {"x.png": P, "x.json": '{"description": "a red cat"}'}, "description")
    assert found == {"x.png": ("a red cat",)}


def test_a_file_about_something_else_stops_nothing_where_all_have_captions(tmp_path: Path) -> None:
    files: Files = {"x.png": P, "x.txt": "a cat", "x.json": '{"description": "another text here"}', "train.json": "{"}
    files |= {"x.md": "about x", "prompts.txt": "a red cat\n", "numbers.json": '{"images": 3, "annotations": []}'}
    assert both(tmp_path, files) == {"x.png": ("a cat",)}


def test_only_files_of_images_without_a_caption_are_named(tmp_path: Path) -> None:
    odd = '{"description": "another text here"}'
    files: Files = {"x.png": P, "x.txt": "a cat", "x.json": odd, "y.png": Q}
    message = mistakes(write(tmp_path, files))
    assert "without a caption (1): y.png" in message and "x.json" not in message


def test_a_text_file_counts_before_json_and_lists_and_the_difference_is_counted(tmp_path: Path) -> None:
    files: Files = {"x.png": P, "y.png": Q, "x.txt": "a cat", "x.json": '{"caption": "a dog"}'}
    files["captions.json"] = '{"x.png": "a bird", "y.png": "a fish"}'
    assert both(tmp_path, files) == {"x.png": ("a cat",), "y.png": ("a fish",)}
    (warning,) = read_manifest(str(tmp_path)).warnings
    assert "which counts (2): x.json, captions.json: x.png" in warning


def test_a_name_of_several_images_is_refused(tmp_path: Path) -> None:
    files: Files = {"a/x.png": P, "b/x.png": Q, "captions.json": '{"x.png": "a cat"}'}
    assert "several images have" in mistakes(write(tmp_path, files))
    found = both(tmp_path, files | {"captions.json": '{"/d/a/x.png": "a cat", "/d/b/x.png": "a dog"}'})
    assert found == {"a/x.png": ("a cat",), "b/x.png": ("a dog",)}


def test_a_list_in_a_folder_says_nothing_of_other_folders(tmp_path: Path) -> None:
    files: Files = {"a/y.png": P, "b/x.png": Q, "b/x.txt": "a bird", "a/captions.json": '{"x": "a cat", "y": "a dog"}'}
    assert both(tmp_path, files) == {"a/y.png": ("a dog",), "b/x.png": ("a bird",)}


def test_paragraphs_stop_the_run_until_the_option_says_what_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path, {"x.png": P, "x.txt": "A dog.\nIt sits.\n\nA window."})
    message = mistakes(folder)
    assert "x.txt" in message and "--data.caption_lines joined" in message
    joined = read_manifest(folder, reading=CaptionReading(lines="joined"))
    assert captions(joined) == {"x.png": ("A dog. It sits. A window.",)}
    manifest = read_manifest(folder, reading=CaptionReading(lines="alternatives"))
    assert captions(manifest) == {"x.png": ("A dog.", "It sits.", "A window.")} and manifest.warnings == ()


def test_json_without_a_caption_in_a_text_file_is_not_a_caption(tmp_path: Path) -> None:
    findings, root = Findings(), write(tmp_path, {"x.png": P, "x.txt": '{"score": 3}'})
    reading = CaptionReading(is_training=False)
    found = read_folder_entries(root, FolderSource(root).read, ["x.png", "x.txt"], reading, findings)
    assert found["x.png"].captions == () and "x.txt" in findings.warnings[0]


def test_syntax_of_other_programs_in_captions_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {"x.png": P, "x.txt": "a {red|blue} cat, [trigger]"})
    text = "\n".join(read_manifest(folder).warnings)
    assert "x.png ({red|blue})" in text and "x.png ([trigger])" in text


def test_files_that_are_said_not_to_be_captions_stop_nothing(tmp_path: Path) -> None:
    files: Files = {
        "x.png": P,
        "x.json": '{"tags": {"1girl": 0.99}}',
        "x.txt": "a cat",
        "y.png": Q,
        "y.JSON": '"a dog"',
    }
    findings, root = Findings(), write(tmp_path, files)
    reading = CaptionReading(is_training=False, ignored=("*.json",))
    found = read_folder_entries(root, FolderSource(root).read, sorted(files), reading, findings)
    findings.raise_errors("", "")
    assert found["x.png"].captions == ("a cat",) and found["y.png"].captions == () and "y.JSON" in found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.xmp", '<x><rdf:Description xmp:Rating="2"><dc:subject><rdf:Bag/></dc:subject></rdf:Description></x>'),
        ("x.xml", "<annotation><filename>x.png</filename><object><name>cat</name></object></annotation>"),
        ("x.json", '{"caption": null, "tags": [], "prompt_strength": 0.5}'),
    ],
)
def test_files_without_a_caption_stop_nothing(tmp_path: Path, name: str, content: str) -> None:
    findings, root = Findings(), write(tmp_path, {"x.png": P, name: content})
    read_folder_entries(root, FolderSource(root).read, ["x.png", name], CaptionReading(is_training=False), findings)
    findings.raise_errors("", "")


def test_a_list_of_one_object_beside_an_image_is_read(tmp_path: Path) -> None:
    assert both(tmp_path, {"x.png": P, "x.json": '[{"caption": "a cat"}]'}) == {"x.png": ("a cat",)}


@pytest.mark.parametrize("kind", ["display_tags", "storage_tags"])
def test_tags_of_hydrus_services_are_read_without_the_services_and_deleted_tags(tmp_path: Path, kind: str) -> None:
    statuses = {"0": ["blue_eyes", "creator:bob"], "1": ["hat"], "2": ["dog"]}
    service = {"name": "my tags", "type": 5, "type_pretty": "local tag service", kind: statuses}
    other = {"name": "all known tags", "type": 10, kind: {"0": ["blue_eyes"]}}
    files: Files = {"x.png": P, "x.png.json": json.dumps({"file_id": 1, "tags": {"6c": service, "7d": other}})}
    assert both(tmp_path, files) == {"x.png": ("blue eyes, creator:bob, hat",)}


@pytest.mark.parametrize(
    ("name", "content", "caption"),
    [
        ("x.txt", "rating:safe, score_9, 1girl", "score_9, 1girl"),
        ("x.txt", "1girl, Rating: explicit, solo\n\nrating:s", "1girl, solo"),
        ("x.txt", "1girl rating:e solo", "1girl solo"),
        ("x.txt", "cat, rating:5 stars, operating:safe", "cat, rating:5 stars, operating:safe"),
        ("x.json", '{"tags": ["1girl", "rating:safe"]}', "1girl"),
        ("captions.json", '{"x.png": "a cat, rating:general"}', "a cat"),
    ],
)
def test_ratings_among_tags_are_left_out_and_said(tmp_path: Path, name: str, content: str, caption: str) -> None:
    assert both(tmp_path, {"x.png": P, name: content}) == {"x.png": (caption,)}
    text = "\n".join(read_manifest(str(tmp_path)).warnings)
    assert ("--data.keep_rating true" in text and name in text) == ("5 stars" not in caption)


def test_ratings_among_tags_stay_where_they_are_wanted(tmp_path: Path) -> None:
    write(tmp_path, {"x.png": P, "x.txt": "rating:safe, 1girl"})
    manifest = read_manifest(str(tmp_path), reading=CaptionReading(keeps_rating=True))
    assert captions(manifest) == {"x.png": ("rating:safe, 1girl",)} and manifest.warnings == ()


def test_tags_of_danbooru_are_separated_by_spaces(tmp_path: Path) -> None:
    files: Files = {"x.png": P, "x.png.json": '{"tag_string": "1girl cat hat"}'}
    assert both(tmp_path, files) == {"x.png": ("1girl, cat, hat",)}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.srt", "1\n00:00:00,000 --> 00:00:01,000\na red cat\n", "a .srt beside an image is not read"),
        ("x.csv", "tag,score\ncat,0.9\n", "the columns tag, score"),
        ("captions.csv", "filename,label\nx.png,a cat\n", "none of the fields caption, text, captions and tags"),
    ],
)
def test_captions_in_further_forms_stop_the_run(tmp_path: Path, name: str, content: str, words: str) -> None:
    folder = write(tmp_path, {"x.png": P, name: content})
    with pytest.raises(ValueError, match=words):
        read_manifest(folder)


def test_settings_of_everydream_and_held_out_images_are_named(tmp_path: Path) -> None:
    files: Files = {"train/a.png": P, "train/a.txt": "a", "val/b.png": Q, "val/b.txt": "b"}
    files |= {"train/multiply.txt": "3", "val/global.yaml": "main_prompt: x"}
    held_out, settings = sorted(read_manifest(write(tmp_path, files)).warnings)
    assert settings.startswith("settings of EveryDream2") and "(2): train/multiply.txt, val/global.yaml" in settings
    assert held_out.startswith("folders that seem to hold images for validation") and "(1): val/" in held_out
