"""Audio files, good and bad.

Authors
-------
 * The speechbrain_ext authors, 2026
"""

import io
import os

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.data.audio import (
    audio_info,
    part_place,
    read_place,
    read_utterance,
)
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.row_groups import row_group

RATE = 16000


def tone(samples=8000, rate=RATE, channels=1):
    """A quiet 220 Hz tone, [N] or [N, C], different in each channel."""
    time = np.arange(samples) / rate
    waves = [0.3 * np.sin(2 * np.pi * 220 * time) for _ in range(channels)]
    waves = [wave * (1 + i) / channels for i, wave in enumerate(waves)]
    return (
        np.stack(waves, 1).squeeze(1) if channels == 1 else np.stack(waves, 1)
    )


def write(path, samples, rate=RATE, **kwargs):
    """Write."""
    soundfile.write(str(path), samples, rate, **kwargs)
    return path


@pytest.mark.parametrize("kind", ["flac", "wav", "mp3", "ogg"])
def test_reads_what_was_written(tmp_path, kind):
    """Reads what was written."""
    path = write(tmp_path / f"a.{kind}", tone())
    wav_N = read_utterance(path)
    assert wav_N.dtype == torch.float32 and wav_N.shape == (8000,)
    info = audio_info(path)
    assert (info.frames, info.sample_rate, info.channels) == (8000, RATE, 1)
    assert info.seconds == 0.5
    tolerance = 1e-4 if kind in ("flac", "wav") else 0.05
    # Lossy codecs ring at the edges.
    error = np.abs(wav_N.numpy() - tone())[500:-500]
    assert error.max() < tolerance


@pytest.mark.parametrize("kind", ["flac", "wav", "mp3", "ogg"])
def test_reads_a_part(tmp_path, kind):
    """Reads a part."""
    path = write(tmp_path / f"a.{kind}", tone())
    whole_N = read_utterance(path)
    part_N = read_utterance(path, start=3000, stop=5000)
    assert part_N.shape == (2000,)
    assert torch.equal(part_N, whole_N[3000:5000])
    for start, stop in ((0, 9000), (5000, 5000), (-1, 10)):
        with pytest.raises(AudioError, match="a.*8000: correct start"):
            read_utterance(path, start=start, stop=stop)


def test_reads_the_part_that_a_place_names(tmp_path):
    """A file of such a name is that file, of whatever kind its ending."""
    file = str(tmp_path / "a:b#1.flac")
    write(file, tone(9000))
    place = part_place(file, 2000, 5000)
    assert torch.equal(read_place(place), read_utterance(file)[2000:5000])
    assert row_group(place) == row_group(file) == ""
    assert row_group(f"{file}#3:4") == f"{file}#3"
    assert len(read_place(file)) == 9000
    os.rename(file, place)
    assert len(read_place(place)) == 9000


def test_reads_from_memory(tmp_path):
    """Reads from memory."""
    path = write(tmp_path / "a.flac", tone())
    held = io.BytesIO(path.read_bytes())
    assert torch.equal(read_utterance(held), read_utterance(path))
    with pytest.raises(AudioError, match="row 7"):
        read_utterance(io.BytesIO(b"no audio"), name="row 7")


def test_other_rate_is_refused_or_resampled(tmp_path):
    """Other rate is refused or resampled."""
    path = write(tmp_path / "a.wav", tone(4000, 8000), 8000)
    with pytest.raises(AudioError, match="a.wav.*8000 Hz.*16000.*resample"):
        read_utterance(path)
    wav_N = read_utterance(path, resample=True)
    assert wav_N.shape == (8000,)
    assert np.abs(wav_N.numpy() - tone())[500:-500].max() < 0.01


def test_stereo_is_refused_or_mixed(tmp_path):
    """Stereo is refused or mixed."""
    samples = tone(channels=2)
    path = write(tmp_path / "a.wav", samples)
    with pytest.raises(AudioError, match="a.wav.*2 channels.*mix_channels"):
        read_utterance(path)
    wav_N = read_utterance(path, mix_channels=True)
    assert np.abs(wav_N.numpy() - samples.mean(1)).max() < 1e-4


def test_absent_and_unreadable(tmp_path):
    """Absent and unreadable."""
    with pytest.raises(AudioError, match="gone.flac: no such audio file"):
        read_utterance(tmp_path / "gone.flac")
    with pytest.raises(AudioError, match="no such audio file"):
        audio_info(tmp_path)
    (tmp_path / "zero.flac").write_bytes(b"")
    with pytest.raises(AudioError, match="zero.flac.*0 bytes"):
        audio_info(tmp_path / "zero.flac")
    (tmp_path / "text.flac").write_text("not audio" * 100)
    with pytest.raises(AudioError, match="text.flac: cannot be read"):
        read_utterance(tmp_path / "text.flac")


def test_without_samples(tmp_path):
    """Without samples."""
    path = write(tmp_path / "none.wav", np.zeros(0))
    with pytest.raises(AudioError, match="none.wav: has no samples"):
        read_utterance(path)


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_cut_short(tmp_path, kind):
    """Cut short."""
    rng = np.random.default_rng(0)
    whole = write(tmp_path / f"a.{kind}", 0.1 * rng.standard_normal(32000))
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=f"a.{kind}: is (damaged|cut short)"):
        read_utterance(whole)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number(tmp_path, value):
    """Not a number."""
    samples = tone()
    samples[4000] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match="a.wav: holds NaN or infinite"):
        read_utterance(path)
