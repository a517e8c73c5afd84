"""The feature cache: equal, current, resumable, and safe to share."""

import errno
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import speechbrain as sb
import torch
from safetensors import safe_open
from transformers import (
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from speechbrain_ext.data import audio_hash, features
from speechbrain_ext.data.audio import part_place, read_place, read_utterance
from speechbrain_ext.data.features import (
    CorruptCacheError,
    FeatureCache,
    cache_key,
)
from speechbrain_ext.data.parquet import ParquetAudio, place_of
from speechbrain_ext.model.encoder import SpeechEncoder, concatenate_frames
from speechbrain_ext.runs.disks import held

K = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Source."""
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
    """Encoder."""
    return SpeechEncoder.from_source(source)


def make_items(folder, count=12):
    """Make items."""
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
    """Items."""
    return make_items(tmp_path / "audio")


def opened(tmp_path, encoder, items, k=K):
    """Opened."""
    rows = {name: (path, read(path).numel() / 16000) for name, path in items}
    return FeatureCache(tmp_path / "cache", encoder, k, rows)


def build(tmp_path, encoder, items, k=K, **options):
    """Build."""
    options = dict(batch_seconds=2, progress=False) | options
    cache, paths = opened(tmp_path, encoder, items, k), dict(items)
    cache.compute(encoder, lambda name: read_utterance(paths[name]), **options)
    return cache


def read(path):
    """Read."""
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


def files(tmp_path):
    """What the cache's folders hold, by utterance."""
    found = {}
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found.setdefault(file.metadata()["id"], []).append(path)
    return found


def direct(encoder, path, k=K):
    """Direct."""
    wav_N = read_utterance(path)
    x_BSE, _ = concatenate_frames(*encoder(wav_N[None], [len(wav_N)]), k)
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
        """Forward."""
        if self.stop_after is not None and len(self.names) >= self.stop_after:
            raise KeyboardInterrupt
        self.names += names
        return self.encoder(wav_BN, lengths, names)


def assert_right(cache, encoder, items):
    """Assert right."""
    for utterance, path in items:
        x_SE = cache[utterance]
        expected = direct(encoder, path)
        assert x_SE.dtype == expected.dtype and x_SE.shape == expected.shape
        # Alone, and in a batch of like lengths.
        assert (x_SE - expected).abs().max() < 1e-5


def test_holds_what_the_encoder_gives(tmp_path, encoder, items):
    """Holds what the encoder gives."""
    cache = build(tmp_path, encoder, items)
    assert_right(cache, encoder, items)
    assert_right(opened(tmp_path, encoder, items), encoder, items)
    assert cache.folder.name == f"{encoder.name}-{cache_key(encoder)}"
    about = json.loads((cache.folder / "made_by.json").read_text())
    assert about["identity"] == encoder.identity()
    with pytest.raises(KeyError, match="other.*opened for"):
        cache["other"]
    more = opened(tmp_path, encoder, [*items, ("new", items[0][1])])
    with pytest.raises(KeyError, match="new.*compute it first"):
        more["new"]


def test_is_sent_to_loading_processes(tmp_path, encoder, items):
    """Is sent to loading processes."""
    cache = build(tmp_path, encoder, items)
    # Writing to what is given does not reach the disk.
    kept = cache["utt-4"].clone()
    cache["utt-4"].zero_()
    sent = pickle.loads(pickle.dumps(cache))
    assert torch.equal(sent["utt-4"], kept)
    data = sb.dataio.dataset.DynamicItemDataset({i: {} for i, _ in items})
    data.add_dynamic_item(cache.__getitem__, "id", "features")
    data.set_output_keys(["id", "features"])
    loader = torch.utils.data.DataLoader(data, num_workers=2, batch_size=None)
    for row in loader:
        assert torch.equal(row["features"], cache[row["id"]])


def test_nothing_is_computed_twice(tmp_path, encoder, items):
    """Nothing is computed twice."""
    build(tmp_path, encoder, items[:8])
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert sorted(counting.names) == sorted(i[0] for i in items[8:])
    assert_right(cache, encoder, items)
    build(tmp_path, counting, items[:3])
    assert len(counting.names) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_k_is_joined_from_the_same_frames(tmp_path, source, items, dtype):
    """To the bit what the encoder gives and `concatenate_frames` joins."""
    encoder = SpeechEncoder.from_source(source, dtype=dtype)
    alone = dict(batch_seconds=0)  # a batch of its own for each
    build(tmp_path, encoder, items, k=K, **alone)
    for k in (1, K, 5):
        cache = build(tmp_path, Counting(encoder, 0), items, k=k, **alone)
        for utterance, path in items:
            expected = direct(encoder, path, k)
            assert cache[utterance].dtype == getattr(torch, dtype)
            assert torch.equal(cache[utterance], expected)


def copied(items, folder):
    """The same recordings elsewhere, of another time."""
    folder.mkdir()
    paths = [(name, shutil.copy(path, folder)) for name, path in items]
    for _, path in paths:
        os.utime(path, (1e9, 1e9))
    return paths


def test_the_same_audio_elsewhere_is_found(tmp_path, encoder, items):
    """Content counts, all of it; place, time and the head alone do not."""
    build(tmp_path, encoder, items)
    moved = copied(items, tmp_path / "elsewhere")
    assert_right(build(tmp_path, Counting(encoder, 0), moved), encoder, moved)
    # As long as before, and of the same time: the middle alone is another.
    wav = tmp_path / "elsewhere" / "4.wav"
    soundfile.write(wav, read(moved[4][1]).numpy(), 16000)
    build(tmp_path, encoder, [("utt-4", str(wav))])
    content = bytearray(wav.read_bytes())
    content[len(content) // 2] ^= 1
    other = wav.with_name("other.wav")
    other.write_bytes(content)
    for path in (wav, other):
        os.utime(path, (1e9, 1e9))
    counting = Counting(encoder)
    build(tmp_path, counting, [("utt-4", str(other))])
    assert counting.names == ["utt-4"]
    # Another utterance of the same file, or another part of it, is another.
    counting = Counting(encoder)
    build(tmp_path, counting, [("first half", moved[5][1])])
    rows = opened(tmp_path, encoder, [moved[5]])._items
    ((name, (place, seconds)),) = rows.items()
    part = FeatureCache(tmp_path / "cache", encoder, K, {name: (place, 0.1)})
    with pytest.raises(KeyError, match="utt-5.*compute it first"):
        part[name]
    assert counting.names == ["first half"]


def test_audio_is_read_once_for_its_hash(tmp_path, encoder, items, monkeypatch):
    """And what was read is known to whoever comes later."""
    read_files = []
    hash_of = audio_hash._hash_of
    monkeypatch.setattr(
        audio_hash, "_hash_of", lambda f: read_files.append(f) or hash_of(f)
    )
    cache = build(tmp_path, encoder, items)
    assert sorted(read_files) == sorted(path for _, path in items)
    again = opened(tmp_path, encoder, items)
    assert len(read_files) == len(items) and again._names == cache._names
    # A memory that cannot be read is made anew.
    (tmp_path / "cache" / "audio.json").write_text("{")
    assert opened(tmp_path, encoder, items)._names == cache._names


def test_audio_that_has_a_copy_keeps_its_features(tmp_path, encoder, items):
    """What one folder lost may be another's still."""
    build(tmp_path, encoder, items)
    moved = copied(items, tmp_path / "elsewhere")
    build(tmp_path, encoder, moved)
    soundfile.write(items[2][1], 0.1 * np.ones(5000), 16000)
    build(tmp_path, encoder, items)
    assert len(files(tmp_path)["utt-2"]) == 2
    assert_right(build(tmp_path, Counting(encoder, 0), moved), encoder, moved)
    assert_right(build(tmp_path, Counting(encoder, 0), items), encoder, items)


def test_joined_features_of_before_are_told(tmp_path, encoder, items, caplog):
    """They are built anew beside, and who has them is told."""
    former = tmp_path / "cache" / f"{encoder.name}-k3-0123"
    former.mkdir(parents=True)
    assert_right(build(tmp_path, encoder, items), encoder, items)
    assert f"{former}: made by an earlier version" in caplog.text
    assert "delete it" in caplog.text and former.is_dir()


def test_another_encoder_is_kept_apart(tmp_path, source, encoder, items):
    """Another encoder is kept apart."""
    build(tmp_path, encoder, items)
    normed = SpeechEncoder.from_source(source, output_norm=True)
    longer = SpeechEncoder.from_source(source, max_seconds=20)
    for other in (normed, longer):
        cache = opened(tmp_path, other, items)
        with pytest.raises(TimeoutError, match="12 utterances are missing"):
            cache.wait(give_up=0)
        counting = Counting(other)
        build(tmp_path, counting, items)
        assert len(counting.names) == len(items)
    assert_right(build(tmp_path, Counting(encoder, 0), items), encoder, items)


def test_earlier_version_is_told(tmp_path, encoder, items):
    """Earlier version is told."""
    folder = tmp_path / "cache" / "wavlm-k3" / "train"
    folder.mkdir(parents=True)
    (folder / "features.bin").touch()
    with pytest.raises(ValueError, match="wavlm-k3/train: made by an earlier"):
        opened(tmp_path, encoder, items)


def test_changed_audio_is_computed_again(tmp_path, encoder, items):
    """Changed audio is computed again."""
    build(tmp_path, encoder, items)
    soundfile.write(items[2][1], 0.1 * np.ones(5000), 16000)
    with pytest.raises(KeyError, match="utt-2.*compute it first"):
        opened(tmp_path, encoder, items)["utt-2"]
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert counting.names == ["utt-2"]
    assert_right(cache, encoder, items)
    # What was made of the audio before is removed.
    assert all(len(paths) == 1 for paths in files(tmp_path).values())


def test_absent_audio_is_told_at_once(tmp_path, encoder, items):
    """Absent audio is told at once."""
    cache = build(tmp_path, encoder, items)
    rows = cache._items
    for name in ("utt-3", "utt-7"):
        os.remove(rows[name][0])
    with pytest.raises(ValueError, match="2 utterances have") as caught:
        FeatureCache(tmp_path / "cache", encoder, K, rows)
    for part in ("utt-3: ", "audio/7.flac", "check data_folder"):
        assert part in str(caught.value)


def test_stopped_build_goes_on(tmp_path, encoder, items):
    """Stopped build goes on."""
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Counting(encoder, stop_after=5), items)
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert 0 < len(counting.names) <= len(items) - 5
    assert_right(cache, encoder, items)


SLOW_BUILD = """
import json, os, sys, time
from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.model.encoder import SpeechEncoder
source, folder, rows = json.loads(sys.argv[1])
fsync = os.fsync
# Whole in the temporary file, for a while not yet under its name.
os.fsync = lambda number: (fsync(number), time.sleep(0.02))
encoder = SpeechEncoder.from_source(source)
cache = FeatureCache(folder, encoder, 3, rows)
print("ready", flush=True)
cache.compute(encoder, lambda name: read_utterance(rows[name][0]),
              batch_seconds=0.5, progress=False)
"""


def test_killed_build_goes_on(tmp_path, source, encoder, items):
    """Killed build goes on."""
    rows = opened(tmp_path, encoder, items)._items
    arguments = json.dumps([str(source), str(tmp_path / "cache"), rows])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    while len(list((tmp_path / "cache").rglob("*.safetensors"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = files(tmp_path)  # each of them can be read
    assert 0 < len(done) < len(items)
    counting = Counting(encoder)
    # The killed one's lock is in nobody's way.
    cache = build(tmp_path, counting, items)
    # What is there is left alone, but for the batch that was cut short.
    assert {*counting.names, *done} == {name for name, _ in items}
    assert len(counting.names) == len(set(counting.names))
    assert_right(cache, encoder, items)


def test_of_two_builders_one_computes(tmp_path, encoder, items, caplog):
    """Of two builders one computes."""
    cache = opened(tmp_path, encoder, items)
    cache.folder.mkdir(parents=True)
    first, second = Counting(encoder), Counting(encoder)
    waiting = threading.Thread(target=build, args=(tmp_path, second, items))
    with features._locked(cache.folder / "lock-0"):
        owner = (cache.folder / "lock-0").read_text()
        assert f"process {os.getpid()} " in owner
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not second.names
        # Another share has a lock of its own.
        build(tmp_path, first, items, rank=1, world_size=2)
    waiting.join(60)
    assert f"waiting for {owner.strip()}" in caplog.text
    assert sorted(first.names + second.names) == sorted(i for i, _ in items)
    assert_right(cache, encoder, items)


@pytest.mark.parametrize("how", ["a bit", "cut", "empty"])
def test_damage_is_told_and_mended(tmp_path, encoder, items, how):
    """Damage is told and mended."""
    build(tmp_path, encoder, items)
    (path,) = files(tmp_path)["utt-6"]
    content = bytearray(path.read_bytes())
    content[-10] ^= 0x40
    lengths = {"a bit": len(content), "cut": len(content) // 2, "empty": 0}
    path.write_bytes(content[: lengths[how]])
    cache = opened(tmp_path, encoder, items)
    told = f"{path}.*utt-6 are damaged: delete this file and start again"
    with pytest.raises(CorruptCacheError, match=told):
        cache["utt-6"]
    cache["utt-5"]
    path.unlink()
    counting = Counting(encoder)
    assert_right(build(tmp_path, counting, items), encoder, items)
    assert counting.names == ["utt-6"]


def test_overflow_names_the_utterance(tmp_path, source, items):
    """Overflow names the utterance."""
    loud = SpeechEncoder.from_source(source, dtype="float16")
    with torch.no_grad():
        loud.core.model.encoder.layer_norm.bias[0] = torch.inf
    with pytest.raises(OverflowError, match="utt-.*float16.*output_norm"):
        build(tmp_path, loud, items)


def test_whisper_is_batched_by_its_window(tmp_path, items):
    """Whisper is batched by its window."""
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


def test_no_space_is_told_before_the_start(
    tmp_path, encoder, items, monkeypatch
):
    """No space is told before the start."""
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: usage)
    counting = Counting(encoder)
    with pytest.raises(OSError, match="no space left for 12 more"):
        build(tmp_path, counting, items)
    assert not counting.names


def test_no_space_in_the_middle_keeps_what_is_there(
    tmp_path, encoder, items, monkeypatch
):
    """No space in the middle keeps what is there."""
    written, save = [], features.save

    def full_after(*arguments):
        """Full after."""
        written.append(arguments)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(*arguments)

    # Raised inside atomic_write, as a write is.
    monkeypatch.setattr(features, "save", full_after)
    with pytest.raises(OSError, match="Free some space there") as caught:
        build(tmp_path, encoder, items)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert len(files(tmp_path)) == 6
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    counting = Counting(encoder)
    cache = build(tmp_path, counting, items)
    assert len(counting.names) == len(items) - 6
    assert_right(cache, encoder, items)


def test_processes_compute_a_share_each(tmp_path, encoder, items):
    """Disjoint, and as if one had computed all."""
    shares = [Counting(encoder) for _ in range(3)]
    for rank in (2, 0, 1):
        build(tmp_path, shares[rank], items, rank=rank, world_size=3)
    assert [len(share.names) for share in shares] == [4, 4, 4]
    names = sum((share.names for share in shares), [])
    assert sorted(names) == sorted(i for i, _ in items)
    # Another number of processes finds all, and computes nothing again.
    cache = build(tmp_path, Counting(encoder, stop_after=0), items)
    cache.wait(give_up=0)
    assert_right(cache, encoder, items)


def test_another_number_of_processes_goes_on(tmp_path, encoder, items):
    """Another number of processes goes on."""
    counting = Counting(encoder)
    build(tmp_path, counting, items, rank=1, world_size=2)
    for rank in range(3):
        build(tmp_path, counting, items, rank=rank, world_size=3)
    assert sorted(counting.names) == sorted(i for i, _ in items)  # each once


def test_who_is_done_waits_for_the_others(tmp_path, encoder, items):
    """Who is done waits for the others."""
    cache = build(tmp_path, encoder, items, rank=0, world_size=2)
    with pytest.raises(TimeoutError, match="6 utterances are missing"):
        cache.wait(look=0.01, give_up=0.05)
    options = dict(rank=1, world_size=2)
    late = threading.Timer(
        0.3, build, [tmp_path, encoder, items], kwargs=options
    )
    late.start()
    cache.wait(look=0.05, give_up=60)
    late.join()
    assert_right(cache, encoder, items)


def test_another_sets_progress_is_progress(
    tmp_path, encoder, items, monkeypatch
):
    """A process may first wait for another run's share of a longer set."""
    cache = build(tmp_path, encoder, items[:2], rank=0, world_size=2)
    others = iter(items[2:6])

    def look(seconds):
        """Another run's features come one by one, each after a while."""
        build(tmp_path, encoder, [next(others)])
        now[0] += 0.9 * features.GIVE_UP

    now = [0.0]
    monkeypatch.setattr(features.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(features.time, "sleep", look)
    with pytest.raises(StopIteration):
        cache.wait()
    monkeypatch.setattr(features.time, "sleep", lambda seconds: None)
    with pytest.raises(TimeoutError, match="1 utterances are missing"):
        cache.wait(give_up=0)


def test_leftovers_of_the_killed_are_removed(tmp_path, encoder, items):
    """Those that nobody is still writing; also where nothing is missing."""
    cache = build(tmp_path, encoder, items)
    folder = next(cache.folder.glob("??"))
    left, living = (
        folder / ".a.safetensors.1.tmp",
        folder / ".b.safetensors.2.tmp",
    )
    for path in (left, living):
        path.touch()
    with held(living):
        build(tmp_path, encoder, items)
    assert not left.exists() and living.exists()
    # Of one whose share is done by another.
    (cache.folder / "lock-0").write_text("process 7 on here\n")
    next(cache.folder.glob("??/*.safetensors")).unlink()
    build(tmp_path, encoder, items)
    assert not living.exists()


def test_a_disk_without_locks_serves(
    tmp_path, encoder, items, monkeypatch, caplog
):
    """Files are whole or not there, so a lock saves work alone."""

    def refused(*arguments):
        """As Lustre without its flock option."""
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(features.fcntl, "flock", refused)
    assert_right(build(tmp_path, encoder, items), encoder, items)
    assert "cannot be locked (Function not implemented)" in caplog.text


def test_parts_of_one_file_have_their_own(tmp_path, encoder):
    """Of the same length too, and again where a part has moved."""
    file = str(tmp_path / "long.flac")
    noise = 0.1 * torch.randn(12000, generator=torch.manual_seed(4))
    soundfile.write(file, noise.numpy(), 16000)
    rows = {
        "a": (part_place(file, 0, 4000), 0.25),
        "b": (part_place(file, 4000, 8000), 0.25),
    }

    def cached(rows):
        """The features, computed where they are missing."""
        cache = FeatureCache(tmp_path / "cache", encoder, K, rows)
        cache.compute(encoder, lambda i: read_place(rows[i][0]))
        return [cache[name] for name in rows]

    first = cached(rows)
    assert not torch.equal(*first)
    alone = tmp_path / "b.flac"
    soundfile.write(alone, noise[4000:8000].numpy(), 16000)
    expected = direct(encoder, alone)
    torch.testing.assert_close(first[1], expected, atol=1e-5, rtol=1e-4)
    rows["b"] = (part_place(file, 6000, 10000), 0.25)
    moved = cached(rows)
    assert torch.equal(moved[0], first[0])
    assert not torch.equal(moved[1], first[1])
    gone = {"c": (part_place(f"{file}x", 0, 4000), 0.25)}
    with pytest.raises(ValueError, match="long.flacx"):
        cached(gone)


def test_row_groups_of_parquet_stay_together(tmp_path, encoder):
    """One process reads a row group, and all of it before the next."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    wavs, rows = {}, {}
    for index in range(12):
        wav = (0.1 * rng.standard_normal(2000 + 977 * index)).astype("float32")
        stream = io.BytesIO()
        soundfile.write(stream, wav, 16000, format="WAV", subtype="FLOAT")
        name = f"utt-{index}"
        wavs[name] = torch.from_numpy(wav), stream.getvalue()
        place = place_of(str(tmp_path / "a.parquet"), *divmod(index, 4))
        rows[name] = place, len(wav) / 16000
    table = pa.table(
        {"wav": [{"bytes": content} for _, content in wavs.values()]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    cache = FeatureCache(tmp_path / "cache", encoder, K, rows)
    for rank in (0, 1):
        audio = ParquetAudio(cache_bytes=0)
        cache.compute(
            encoder,
            lambda name: audio.read(rows[name][0]),
            rank,
            2,
            progress=False,
        )
        assert audio.groups_read == 2 - rank
    for name, (wav_N, _) in wavs.items():
        x_BSE, _ = concatenate_frames(*encoder(wav_N[None], [len(wav_N)]), K)
        assert (cache[name] - x_BSE[0]).abs().max() < 1e-5
    # The same file elsewhere; another row of it is another utterance.
    shutil.copy(tmp_path / "a.parquet", tmp_path / "b.parquet")
    moved = {
        name: (place.replace("a.parquet", "b.parquet"), seconds)
        for name, (place, seconds) in rows.items()
    }
    FeatureCache(tmp_path / "cache", encoder, K, moved).wait(give_up=0)
    (place, _), (_, seconds) = moved["utt-1"], moved["utt-0"]
    swapped = {**moved, "utt-0": (place, seconds)}
    with pytest.raises(TimeoutError, match="1 utterances are missing"):
        FeatureCache(tmp_path / "cache", encoder, K, swapped).wait(give_up=0)
