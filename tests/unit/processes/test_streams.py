import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from finetune.processes import streams as standard_streams
from finetune.processes.streams import LastingFile, lasting, let_readers_leave, lost_output


def text_stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w")), encoding="utf-8")


def test_printing_to_a_closed_pipe_loses_the_text_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    original = text_stream(writer)
    stream = lasting(original, original, "test pipe")
    print("read", file=stream, flush=True)
    assert os.read(reader, 100) == b"read\n"
    os.close(reader)
    for _ in range(2):
        print("lost", file=stream, flush=True)
        Console(file=stream).print("[bold]lost[/]")
    assert capfd.readouterr().err.count("test pipe could not be written (Broken pipe)") == 1
    assert any("test pipe" in sentence for sentence in lost_output())
    assert os.readlink(f"/proc/self/fd/{writer}") == os.devnull  # for what child processes print
    stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_loses_only_what_does_not_fit() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    original = text_stream(descriptor)
    stream = lasting(original, original, "full disk")
    print("lost", file=stream, flush=True)
    assert os.readlink(f"/proc/self/fd/{descriptor}") == "/dev/full"  # a later write may find room
    stream.close()


def test_a_stream_of_somebody_else_stays_and_a_missing_one_is_replaced() -> None:
    somebodys = io.StringIO()
    assert lasting(somebodys, None, "output") is somebodys
    print("nowhere", file=lasting(None, None, "output"), flush=True)


def test_without_a_buffer_as_under_python_u_writing_lasts_too() -> None:
    reader, writer = os.pipe()
    raw = io.FileIO(writer, "w")
    os.close(reader)
    original = io.TextIOWrapper(raw, write_through=True)
    print("lost", file=lasting(original, original, "output without a buffer"), flush=True)
    assert LastingFile(raw, "output").write(memoryview(b"12345")) == 5  # where it went is /dev/null now


def test_a_reader_of_help_may_leave_without_a_remark(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_streams, "_may_be_read_in_part", False)  # and what it was afterwards
    reader, writer = os.pipe()
    original = text_stream(writer)
    stream = lasting(original, original, "help pipe")
    os.close(reader)
    let_readers_leave()
    print("lost", file=stream, flush=True)
    assert capfd.readouterr().err == "" and not any("help pipe" in sentence for sentence in lost_output())
    stream.close()
