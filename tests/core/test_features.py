"""The feature cache: equal, current, resumable, and safe to share.

Authors
-------
 * The speechbrain_ext authors, 2026
"""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.features import writer
from speechbrain_ext.data.features.cache import FeatureCache, cache_key
from speechbrain_ext.data.features.entries import StaleCacheError
from speechbrain_ext.data.features.index import CorruptCacheError
from speechbrain_ext.data.features.lock import locked
from speechbrain_ext.data.features.parts import build_share, join
from speechbrain_ext.model.encoder import SpeechEncoder, concatenate_frames

K = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavlm")
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(16, 16),
        conv_kernel=(160, 3),
        conv_stride=(160, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(source):
    return SpeechEncoder.from_source(source)


def make_items(folder, count=12):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    items = []
    for index in range(count):
        path = folder / f"{index}.flac"
        length = 2000 + 977 * index
        soundfile.write(path, 0.1 * rng.standard_normal(length), 16000)
        items.append((f"utt-{index}", str(path)))
    return items


@pytest.fixture
def items(tmp_path):
    return make_items(tmp_path / "audio")


def build(tmp_path, encoder, items, k=K, **kwargs):
    options = dict(batch_seconds=2, progress=False)
    return FeatureCache.build(
        tmp_path / "cache", encoder, k, items, **{**options, **kwargs}
    )


def direct(encoder, path, start=None, stop=None):
    wav_N = read_utterance(path, start=start, stop=stop)
    x_BSE, _ = concatenate_frames(*encoder(wav_N[None], [len(wav_N)]), K)
    return x_BSE[0]


class Counting(torch.nn.Module):
    """Passes on to an encoder; counts utterances and may stop half-way."""

    def __init__(self, encoder, stop_after=None):
        super().__init__()
        self.encoder, self.stop_after, self.names = encoder, stop_after, []

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.encoder, name)

    def forward(self, wav_BN, lengths, names):
        if self.stop_after is not None and len(self.names) >= self.stop_after:
            raise KeyboardInterrupt
        self.names += names
        return self.encoder(wav_BN, lengths, names)


def assert_right(cache, encoder, items):
    assert len(cache) == len(items)
    for utterance, *where in items:
        x_SE = cache[utterance]
        expected = direct(encoder, *where)
        assert x_SE.dtype == torch.float16 and x_SE.shape == expected.shape
        assert cache.tokens(utterance) == len(expected)
        assert (x_SE.float() - expected).abs().max() < 4e-3


def test_holds_what_the_encoder_gives(tmp_path, encoder, items):
    part = ("part", items[5][1], 500, 4000)
    items = [*items, part]
    cache = build(tmp_path, encoder, items)
    assert_right(cache, encoder, items)
    assert "utt-3" in cache and "other" not in cache
    assert set(cache.keys()) == {item[0] for item in items}
    opened = FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert_right(opened, encoder, items)
    with pytest.raises(KeyError, match="other.*build"):
        cache["other"]


def test_is_mapped_not_copied(tmp_path, encoder, items):
    cache = build(tmp_path, encoder, items)
    first, again = cache["utt-4"], cache["utt-4"]
    assert first.data_ptr() == again.data_ptr()
    # Its storage is the utterance's alone.
    assert first.untyped_storage().nbytes() == first.numel() * 2
    # Writing to the view does not reach the disk.
    kept = first.clone()
    first.zero_()
    fresh = FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert torch.equal(fresh["utt-4"], kept)
    sent = pickle.loads(pickle.dumps(fresh))
    assert torch.equal(sent["utt-4"], kept)


def test_nothing_is_computed_twice(tmp_path, encoder, items):
    build(tmp_path, encoder, items[:8])
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert sorted(counting.names) == sorted(i[0] for i in items[8:])
    assert_right(cache, encoder, items)
    assert len(build(tmp_path, counting, items[:3])) == 3
    assert len(counting.names) == 4


def test_other_encoder_or_k_is_refused(tmp_path, source, encoder, items):
    build(tmp_path, encoder, items)
    normed = SpeechEncoder.from_source(source, output_norm=True)
    half = SpeechEncoder.from_source(source, dtype="bfloat16")
    for other, k in ((encoder, 5), (normed, K), (half, K)):
        with pytest.raises(StaleCacheError, match="k = 3.*rebuild"):
            build(tmp_path, other, items, k)
        with pytest.raises(StaleCacheError, match="k = 3.*rebuild"):
            FeatureCache.open(tmp_path / "cache", cache_key(other, k))
    counting = Counting(half)
    cache = build(tmp_path, counting, items, rebuild=True)
    assert len(counting.names) == len(items)
    assert cache["utt-0"].dtype == torch.float16
    expected = direct(half, items[0][1]).to(torch.float16)
    similar = torch.cosine_similarity(
        cache["utt-0"].float(), expected.float(), -1
    )
    assert similar.min() > 0.99
    with pytest.raises(FileNotFoundError, match="nowhere.*build it first"):
        FeatureCache.open(tmp_path / "nowhere", cache_key(encoder, K))


def test_changed_audio_is_refused_or_computed_again(tmp_path, encoder, items):
    build(tmp_path, encoder, items)
    soundfile.write(items[2][1], 0.1 * np.ones(5000), 16000)
    with pytest.raises(StaleCacheError, match="utt-2 was changed"):
        FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert counting.names == ["utt-2"]
    assert_right(cache, encoder, items)
    # A file that went is forgotten once it is no longer asked for.
    os.remove(items[7][1])
    rest = items[:7] + items[8:]
    with pytest.raises(StaleCacheError, match="utt-7"):
        FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    build(tmp_path, counting, rest)
    opened = FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert_right(opened, encoder, rest)


def test_corpus_and_cache_may_move(tmp_path, encoder, items):
    build(tmp_path, encoder, items, root=tmp_path / "audio")
    (tmp_path / "audio").rename(tmp_path / "moved")
    key = cache_key(encoder, K)
    with pytest.raises(StaleCacheError):
        FeatureCache.open(tmp_path / "cache", key, root=tmp_path / "audio")
    moved = [(i, path.replace("audio", "moved")) for i, path in items]
    opened = FeatureCache.open(tmp_path / "cache", key, tmp_path / "moved")
    assert_right(opened, encoder, moved)
    counting = Counting(encoder)
    build(tmp_path, counting, moved, root=tmp_path / "moved")
    assert counting.names == []


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_stopped_build_goes_on(tmp_path, encoder, items, cut):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Counting(encoder, stop_after=5), items)
    data, index = (
        tmp_path / "cache" / n for n in ("features.bin", "index.jsonl")
    )
    # As if killed while writing: features without a line, half a line.
    with open(data, "ab") as file:
        file.write(b"half written")
    if cut:
        index.write_bytes(index.read_bytes()[:-cut])
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert 0 < len(counting.names) <= len(items) - 5 + bool(cut)
    assert_right(cache, encoder, items)
    opened = FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert_right(opened, encoder, items)


SLOW_BUILD = """
import sys, time
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.data.features.writer import Writer
import json
source, folder, items = json.loads(sys.argv[1])
write = Writer._write
Writer._write = lambda *args: (write(*args), time.sleep(0.05))
encoder = SpeechEncoder.from_source(source)
print("ready", flush=True)
FeatureCache.build(folder, encoder, 3, items, batch_seconds=0.5,
                   progress=False)
"""


def start_build(source, folder, items):
    arguments = json.dumps([str(source), str(folder), items])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_build_goes_on(tmp_path, source, encoder, items):
    index = tmp_path / "cache" / "index.jsonl"
    process = start_build(source, tmp_path / "cache", items)
    while not index.exists() or index.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = index.read_bytes().count(b"\n") - 1
    assert 0 < done < len(items)
    counting = Counting(encoder)
    # The killed one's lock is in nobody's way.
    cache = build(tmp_path, counting, items)
    assert len(counting.names) <= len(items) - done + 1
    assert_right(cache, encoder, items)


def _build_in_process(folder, source, items, order):
    torch.set_num_threads(1)
    encoder = Counting(SpeechEncoder.from_source(source))
    FeatureCache.build(
        folder, encoder, K, items[::order], batch_seconds=1, progress=False
    )


def test_two_builders_take_turns(tmp_path, source, encoder, items):
    context = multiprocessing.get_context("fork")
    builders = [
        context.Process(
            target=_build_in_process,
            args=(tmp_path / "cache", source, items, order),
        )
        for order in (1, -1)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    lines = (tmp_path / "cache" / "index.jsonl").read_text().splitlines()
    # The second found everything done: one line each, and the head.
    assert len(lines) == len(items) + 1
    cache = FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert_right(cache, encoder, items)
    assert not cache.damaged()


def test_waiting_builder_names_the_owner(tmp_path, encoder, items, caplog):
    folder = tmp_path / "cache"
    folder.mkdir()
    waiting = threading.Thread(target=build, args=(tmp_path, encoder, items))
    with locked(folder):
        owner = (folder / "lock").read_text()
        assert f"process {os.getpid()} " in owner
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert not (folder / "index.jsonl").exists()
    waiting.join(60)
    assert f"waiting for {owner.strip()}" in caplog.text
    cache = FeatureCache.open(folder, cache_key(encoder, K))
    assert_right(cache, encoder, items)


def test_damage_is_found_and_mended(tmp_path, encoder, items):
    cache = build(tmp_path, encoder, items)
    path = tmp_path / "cache" / "features.bin"
    content = bytearray(path.read_bytes())
    offset = cache._entries["utt-6"]["offset"]
    content[offset + 10] ^= 0x40
    path.write_bytes(content)
    opened = FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert opened.damaged() == ["utt-6"]
    with pytest.raises(CorruptCacheError, match="utt-6.*verify=True"):
        opened["utt-6"]
    opened["utt-5"]
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items, verify=True)
    assert counting.names == ["utt-6"]
    assert_right(cache, encoder, items)


def test_features_cut_off_are_found_and_mended(tmp_path, encoder, items):
    build(tmp_path, encoder, items)
    path = tmp_path / "cache" / "features.bin"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CorruptCacheError, match="missing from features.bin"):
        FeatureCache.open(tmp_path / "cache", cache_key(encoder, K))
    assert_right(build(tmp_path, encoder, items), encoder, items)
    path.unlink()
    assert_right(build(tmp_path, encoder, items), encoder, items)


def test_unreadable_index_is_told(tmp_path, encoder, items):
    build(tmp_path, encoder, items)
    (tmp_path / "cache" / "index.jsonl").write_bytes(b"\0\0\0")
    with pytest.raises(CorruptCacheError, match="no readable head: remove"):
        build(tmp_path, encoder, items)


def test_overflow_names_the_utterance(tmp_path, source, items):
    loud = SpeechEncoder.from_source(source)
    with torch.no_grad():
        loud.core.model.encoder.layer_norm.bias[0] = 7e4
    with pytest.raises(OverflowError, match="utt-.*65504.*output_norm"):
        build(tmp_path, loud, items)


def test_bf16_features_are_taken(tmp_path, source, items):
    half = SpeechEncoder.from_source(source, dtype="bfloat16")
    cache = build(tmp_path, half, items[:3])
    expected = direct(half, items[1][1])
    assert expected.dtype == torch.bfloat16
    assert (cache["utt-1"] - expected).abs().max() < 0.1


def test_whisper_is_batched_by_its_window(tmp_path, items):
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=20,
        max_source_positions=100,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    WhisperModel(config).save_pretrained(tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=20).save_pretrained(
        tmp_path / "whisper"
    )
    encoder = SpeechEncoder.from_source(tmp_path / "whisper")
    seen = []
    encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output[1]))
    )
    cache = build(tmp_path, encoder, items, batch_seconds=8)
    # Each utterance costs 2 s, however short.
    assert seen == [4, 4, 4]
    assert_right(cache, encoder, items)


def test_bad_utterances_are_told_at_once_or_left_out(tmp_path, encoder, items):
    short, gone, other, nan = (path for _, path in items[:4])
    soundfile.write(short, np.zeros(50), 16000)
    os.remove(gone)
    soundfile.write(other, np.zeros(8000), 8000)
    bad = tmp_path / "audio" / "nan.wav"
    soundfile.write(bad, np.full(8000, np.nan), 16000, subtype="FLOAT")
    items[3] = ("utt-3", str(bad))
    with pytest.raises(ValueError) as caught:
        build(tmp_path, encoder, items)
    for part in ("3 utterances", "utt-0", "utt-1", "8000 Hz", "skip_bad"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="utt-3.*NaN"):
        build(tmp_path, encoder, items[3:])
    cache = build(tmp_path, encoder, items, skip_bad=True)
    assert set(cache.skipped) == {f"utt-{index}" for index in range(4)}
    assert_right(cache, encoder, items[4:])
    with pytest.raises(ValueError, match="utt-5: given twice"):
        build(tmp_path, encoder, [items[5], items[5]])
    cache = build(tmp_path, encoder, [items[2]], resample=True)
    assert cache.tokens("utt-2") == len(cache["utt-2"]) == 17


def test_no_space_is_told_before_the_start(
    tmp_path, encoder, items, monkeypatch
):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage)
    counting = Counting(encoder)
    with pytest.raises(OSError, match="no space left for 12 more") as caught:
        build(tmp_path, counting, items)
    assert caught.value.errno == errno.ENOSPC and not counting.names


def test_no_space_in_the_middle_keeps_what_is_there(
    tmp_path, encoder, items, monkeypatch
):
    write_all, calls = writer.write_all, []

    def full_after(file, content):
        calls.append(file)
        if len(calls) == 6:
            file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(file, content)

    monkeypatch.setattr(writer, "write_all", full_after)
    with pytest.raises(OSError, match="cache: no space left.*is kept"):
        build(tmp_path, encoder, items)
    monkeypatch.undo()
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert 0 < len(counting.names) < len(items)
    assert_right(cache, encoder, items)


def share(folder, encoder, items, rank, world_size):
    options = dict(batch_seconds=2, progress=False)
    build_share(folder, encoder, K, items, rank, world_size, **options)


def part_lines(folder):
    """Utterances in the index of each part (dict)."""
    files = Path(folder).rglob("index.jsonl")
    return {
        file.parent.name: [
            json.loads(line)["id"] for line in file.read_text().splitlines()[1:]
        ]
        for file in files
    }


def test_processes_build_a_share_each(tmp_path, encoder, items):
    """Disjoint, in files of their own, and as if one had built all."""
    folder = tmp_path / "cache"
    for rank in (2, 0, 1):
        share(folder, encoder, items, rank, 3)
    lines = part_lines(folder)
    assert set(lines) == {"cache", "part-1", "part-2"}
    assert [len(ids) for ids in lines.values()] == [4, 4, 4]
    assert sorted(sum(lines.values(), [])) == sorted(i for i, _ in items)
    cache = join(folder, encoder, K, items, give_up=0)
    assert_right(cache, encoder, items)
    assert len(pickle.loads(pickle.dumps(cache))) == len(items)
    # Another number of processes finds all, and computes nothing again.
    share(folder, encoder, items, 0, 1)
    assert part_lines(folder) == lines


def test_another_number_of_processes_goes_on(tmp_path, encoder, items):
    folder = tmp_path / "cache"
    share(folder, encoder, items, 1, 2)
    for rank in range(3):
        share(folder, encoder, items, rank, 3)
    ids = sum(part_lines(folder).values(), [])
    assert sorted(ids) == sorted(i for i, _ in items)  # each once
    # Changed audio is computed again, by whoever has it in its share.
    name, path = items[7]
    soundfile.write(path, 0.2 * np.ones(4000), 16000)
    for rank in range(2):
        share(folder, encoder, items, rank, 2)
    assert_right(join(folder, encoder, K, items, give_up=0), encoder, items)


def test_who_is_done_waits_for_the_others(tmp_path, encoder, items):
    folder = tmp_path / "cache"
    share(folder, encoder, items, 0, 2)
    with pytest.raises(TimeoutError, match="6 utterances are missing"):
        join(folder, encoder, K, items, look=0.01, give_up=0.05)
    late = threading.Timer(0.3, share, [folder, encoder, items, 1, 2])
    late.start()
    cache = join(folder, encoder, K, items, look=0.05, give_up=60)
    late.join()
    assert_right(cache, encoder, items)


def test_parts_of_another_encoder_are_refused(tmp_path, source, encoder, items):
    folder = tmp_path / "cache"
    share(folder, encoder, items, 1, 2)
    other = SpeechEncoder.from_source(source, output_norm=True)
    with pytest.raises(StaleCacheError, match="part-1"):
        share(folder, other, items, 0, 2)
