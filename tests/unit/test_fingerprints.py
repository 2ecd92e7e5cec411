"""A fingerprint sees every byte that a stage reads, nothing else, and reads each large file once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from flc.models.folder import EMBEDDED
from flc.run import fingerprints
from flc.run.fingerprints import ClipsOf, fingerprint_of, kept_digests
from flc.run.folders import run_stage
from flc.train.launch import Ranks

LARGE = 3 * fingerprints.LARGE


@pytest.fixture
def hashed(monkeypatch, tmp_path):
    """Names of the files that are read, as they are; the cache is one of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept_digests.cache_clear()
    names, plain = [], fingerprints.hashlib.file_digest

    def file_digest(file, algorithm):
        names.append(Path(file.name).name)
        return plain(file, algorithm)

    monkeypatch.setattr(fingerprints.hashlib, "file_digest", file_digest)
    yield names
    kept_digests.cache_clear()


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


def change(path: Path, at: int) -> None:
    """One byte, with size and time of modification as they were."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("at", [0, LARGE // 2, -1])
def test_a_byte_changed_anywhere_in_a_file_is_seen_though_size_and_time_are_the_same(hashed, monkeypatch, tmp_path, at):
    monkeypatch.setattr(fingerprints, "SETTLED", -(10**18))  # a digest is kept at once
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "model.safetensors"
    file.write_bytes(bytes(LARGE))
    before = fingerprint_of(tmp_path / "weights")
    change(file, at)
    assert fingerprint_of(tmp_path / "weights") != before
    change(file, at)
    assert fingerprint_of(tmp_path / "weights") == before


def test_a_large_file_is_read_once_by_all_processes_of_a_user(hashed, monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprints, "SETTLED", -(10**18))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(bytes(LARGE))
    (tmp_path / "weights" / "config.json").write_text("{}")
    first = fingerprint_of(tmp_path / "weights")
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    kept_digests.cache_clear()  # as another process begins
    assert fingerprint_of(tmp_path / "weights") == first and hashed[2:] == ["config.json"]


def test_what_changed_just_now_is_read_again_since_it_may_change_under_the_same_time(hashed, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(LARGE))
    fingerprint_of(file)
    fingerprint_of(file)
    assert hashed == ["model.safetensors"] * 2 and not fingerprints.cache_file().exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": ["b"]}', "\x80"])
def test_a_broken_cache_is_forgotten_and_one_that_cannot_be_written_done_without(hashed, monkeypatch, tmp_path, text):
    monkeypatch.setattr(fingerprints, "SETTLED", -(10**18))
    fingerprints.cache_file().parent.mkdir(parents=True)
    fingerprints.cache_file().write_text(text, encoding="latin-1")
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(LARGE))
    fingerprint_of(file)
    assert len(json.loads(fingerprints.cache_file().read_text())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    kept_digests.cache_clear()
    fingerprint_of(file)
    assert hashed == ["model.safetensors"] * 2


def test_only_the_leader_reads_what_a_stage_rests_on(hashed, tmp_path):
    class Second(Ranks):
        def shared(self, text):
            assert json.loads(text) == [None, ""]
            return json.dumps([["done", {}], ""])

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    assert not run_stage(tmp_path / "out", {}, {"model": tmp_path / "source"}, lambda folder: None, Second(1, 2))
    assert hashed == []


#: Files of a model's folder that no loader reads.
UNREAD = [
    "README.md", "teaser.mp4", "transformer/README.md", ".gitattributes", ".cache/huggingface/x.metadata",
    "transformer/diffusion_pytorch_model.fp16.safetensors", "text_encoder/pytorch_model.bin", "other/config.json",
]  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_what_no_loader_reads_is_no_part_of_a_model(model, name):
    before = fingerprint_of(model)
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_bytes(b"text")
    assert fingerprint_of(model) == before


@pytest.mark.parametrize("name", ["model_index.json", "flc.json", "scheduler/scheduler_config.json",
                                  "tokenizer/tokenizer.json", "vae/diffusion_pytorch_model.safetensors"])  # fmt: skip
def test_what_loaders_read_is(model, name):
    before = fingerprint_of(model)
    path = model / name
    path.write_bytes(path.read_bytes() + b" ")
    assert fingerprint_of(model) != before


def test_clips_are_those_that_a_stage_reads_by_captions_and_bytes(tmp_path):
    """The first three of four; the third, fourth and first again."""
    lines = [{"file": f"{k}.mp4", "caption": f"clip {k}"} for k in range(4)]
    for k in range(4):
        (tmp_path / f"{k}.mp4").write_bytes(bytes([k]))

    def prints(lines: list[dict]) -> tuple[str, str]:
        (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
        first, later = (fingerprint_of(ClipsOf(tmp_path, rows)) for rows in (range(3), range(2, 5)))
        return first, later

    first, later = prints(lines)
    assert prints([*lines, {"file": "0.mp4", "caption": "one more"}])[0] == first
    assert prints([*lines[:3], lines[3] | {"caption": "another"}])[0] == first
    assert prints([*lines[:3], lines[3] | {"caption": "another"}])[1] != later
    assert prints([lines[0] | {"caption": "another"}, *lines[1:]])[0] != first
    (tmp_path / "3.mp4").write_bytes(b"another")
    assert prints(lines)[0] == first and prints(lines)[1] != later
    (tmp_path / "1.mp4").write_bytes(b"another")
    assert prints(lines)[0] != first
