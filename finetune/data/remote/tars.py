"""Index a WebDataset archive, in which files of one name belong together."""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import replace

from finetune.data.captions.files import CAPTION_SUFFIXES, read_caption_files
from finetune.data.captions.found import refuse_puzzling
from finetune.data.captions.names import CLASS_SUFFIX, LISTINGS, split_name
from finetune.data.images.decode import upright_size
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Entry, Findings, read_captions
from finetune.data.remote.shard import IndexedImage, ShardReading
from finetune.data.remote.storage import RemoteFile, Storage
from finetune.data.visible_files import CONDITION_SUFFIX, MASK_SUFFIX, MAX_FILE_BYTES, UNREAD_SUFFIXES, is_image_name


def index_tar(
    storage: Storage, shard: RemoteFile, options: ShardReading, findings: Findings, kept: KeptFiles
) -> list[IndexedImage]:
    """Read an archive once, from start to end. An image's name is the shard's, a slash, and its name in there. Notes
    what is wrong with its images and captions."""
    images: dict[str, IndexedImage] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=storage.open(shard).blocks(), mode="r:") as archive:
            for name, member in _files(archive, shard, findings):
                if is_image_name(name) and not split_name(name)[0].endswith((MASK_SUFFIX, CONDITION_SUFFIX)):
                    if (found := _image(archive, name, member, findings, kept)) is not None:
                        images[name] = found
                elif split_name(name)[1] in CAPTION_SUFFIXES | {CLASS_SUFFIX} and options.captions == "listed":
                    texts[name] = _content(archive, member)
                elif is_image_name(name):
                    findings.warn("condition images and masks in archives, which are not used", name)
                elif split_name(name)[1] in UNREAD_SUFFIXES:
                    findings.warn("images in a format that is not read; save them as PNG or JPEG to use them", name)
    except tarfile.TarError as error:
        findings.error("archives that are not whole and uncompressed .tar files", f"{shard.name} ({error})")
    if options.captions == "none":
        return list(images.values())
    return _captioned(images, texts, options, findings)


def _captioned(
    images: dict[str, IndexedImage], texts: dict[str, bytes], options: ShardReading, findings: Findings
) -> list[IndexedImage]:
    for name in texts:
        if posixpath.basename(name) in LISTINGS:
            findings.warn("listings in archives, which are not read; put a .txt or .json beside each image", name)
    found = read_caption_files(
        texts.__getitem__, [*images, *texts], is_image_name, options.reading, findings, is_keyed=True
    )
    refuse_puzzling(found, images, options.reading, findings)
    return [
        replace(image, entry=Entry(name, read_captions([*found.captions.get(name, [])], name, findings)))
        for name, image in images.items()
    ]


def _files(archive: tarfile.TarFile, shard: RemoteFile, findings: Findings) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield the visible regular files with their full names."""
    for member in archive:
        name = posixpath.normpath(member.name)
        if name.startswith(("/", "../")):
            findings.error("names in archives that lead out of them (absolute or ..)", f"{shard.name}: {member.name}")
        elif member.isreg() and not member.issparse() and not posixpath.basename(name).startswith("."):
            if member.size > MAX_FILE_BYTES:
                text = f"{shard.name}/{name} ({member.size:,} bytes, the limit is {MAX_FILE_BYTES:,})"
                findings.error("files that cannot be read", text)
            else:
                yield f"{shard.name}/{name}", member
        elif not member.isreg() and not member.isdir():
            findings.warn("links and other entries of archives that are not files", f"{shard.name}/{name}")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "only regular files are read"
    return file.read()


def _image(
    archive: tarfile.TarFile, name: str, member: tarfile.TarInfo, findings: Findings, kept: KeptFiles
) -> IndexedImage | None:
    data = _content(archive, member)
    try:
        width, height = upright_size(data)
    except ValueError as error:
        findings.error("files that are not usable images", f"{name} ({error})")
        return None
    return IndexedImage(Entry(name, ("",)), width, height, kept.add(data), member.offset_data, member.size)
