"""Words in file and folder names that describe an image."""

import re
import unicodedata

CAMERA_WORDS = frozenset(
    ("img", "dsc", "dscn", "dscf", "dcim", "pxl", "mvimg", "gopr", "cimg", "sam", "pict", "hpim", "dji", "mvi", "vid")
)
"""Prefixes that cameras write before a number."""
EMPTY_WORDS = frozenset(
    word
    for line in (
        "a an the of at in on to by from for and or with is it this my our your new old no nr num number copy final",
        "image images img imgs picture pictures pic pics photo photos photograph photographs photography edited edit",
        "file files untitled unnamed unknown default download downloads downloaded screenshot screenshots screen shot",
        "scan scans scanned capture frame frames video clip snapshot camera whatsapp telegram facebook instagram",
        "twitter reddit pinterest tumblr imgur flickr wallpaper comfyui output outputs result results grid generated",
        "sample samples upscaled resized cropped train training test testing val valid validation eval dev set dataset",
        "datasets data raw input inputs batch part index item page class label mask masks temp tmp misc other others",
        "jpg jpeg png gif webp bmp tiff heic am pm jan feb mar apr jun jul aug sep oct nov dec uuid id thumb thumbnail",
        "original orig small medium large full source src folder new roll camera untitled design chrome firefox safari",
        "signal snapchat received sent dall oip maxresdefault hqdefault ezgif com webp pexels unsplash pixabay crop wa",
        "bild bilder foto fotos bildschirmfoto unbenannt neuer neue ordner kopie von datei",
        "capture écran image copie de sans titre nouveau dossier numérisation",
        "imagen imágenes captura pantalla copia sin título nueva carpeta archivo",
        "immagine immagini senza titolo nuova cartella schermata imagem imagens sem nova pasta",
    )
    for word in line.split()
)
"""Words of several languages that say nothing about an image on their own."""


def name_in_words(name: str) -> str:
    """Extract the words of a name. Numbers, hashes, and words of cameras and programs are dropped. The result is empty
    where no word describes an image, as for p, picture (2), or 00001-of-00099."""
    parts = [part for part in re.split(r"[^\w'’]+|_+", name) if part]
    kept = [part for part in parts if not _is_code(part)]
    words = [part.strip("'’").rstrip("0123456789") for part in kept]
    words = [word for word in words if word and word.lower() not in CAMERA_WORDS]
    if len(kept) < len(parts) and all(re.fullmatch("[a-f]+", word, re.IGNORECASE) for word in words):
        return ""  # further pieces of the hash
    return " ".join(words) if any(_says_something(word) for word in words) else ""


def _is_code(part: str) -> bool:
    """Recognize hashes and mixtures of letters and digits. 3d and cat01 are neither."""
    if re.fullmatch(r"(?=.*\d)(?=.*[a-fA-F])[0-9a-fA-F]{4,}|\d[0-9a-fA-F]{7,}", part):
        return True
    return part.isascii() and len(re.findall(r"\d(?=[A-Za-z])|[A-Za-z](?=\d)", part)) > 1


def _says_something(word: str) -> bool:
    word = unicodedata.normalize("NFC", word).lower()
    word = word.removeprefix("d'").removeprefix("d’")
    if word in EMPTY_WORDS:
        return False
    if not word.isascii():
        return any(character.isalpha() for character in word)
    letters = re.sub(r"[^a-z]", "", word)
    return len(letters) > 1 and re.search("[aeiouy]", letters) is not None and letters not in EMPTY_WORDS
