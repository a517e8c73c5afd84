"""Read the audio of one utterance, and refuse what would spoil a run.

A corpus has files that are absent, cut short, silent in the header but full
of NaN, at another rate, or in stereo. Each of these is told here, with the
file's name and what mends it, rather than met later as a strange loss.

Files are read with soundfile, as SpeechBrain 1.1 does (torchaudio 2.11 has no
reader of its own). Its ``audio_io.load`` is not used because it turns every
fault into one RuntimeError and does not notice a file that ends early. WAV,
FLAC, OGG and MP3 are read.

Example
-------
>>> import soundfile, torch
>>> path = getfixture("tmpdir") / "a.flac"
>>> soundfile.write(str(path), torch.zeros(16000).numpy(), 16000)
>>> audio_info(path).frames
16000
>>> read_utterance(path, stop=400).shape
torch.Size([400])

Authors
-------
 * The speechbrain_ext authors, 2026
"""

import os
from dataclasses import dataclass
from functools import lru_cache

import soundfile
import torch
import torchaudio


class AudioError(ValueError):
    """An utterance that cannot be used; the message names file and mend.

    Example
    -------
    >>> raise AudioError("a.flac: empty")
    Traceback (most recent call last):
    ...
    speechbrain_ext.audio.AudioError: a.flac: empty
    """


@dataclass(frozen=True)
class AudioInfo:
    """What the head of an audio file says.

    Arguments
    ---------
    frames : int
        Samples per channel.
    sample_rate : int
        In hertz.
    channels : int
        1 for mono, 2 for stereo.
    """

    frames: int
    sample_rate: int
    channels: int

    @property
    def seconds(self):
        """Duration in seconds."""
        return self.frames / self.sample_rate


def audio_info(path, name=None):
    """Read only the head of an audio file: quick, whatever its length.

    Arguments
    ---------
    path : str, pathlib.Path or binary file
        The file; an open binary file (audio held in memory) also serves.
    name : str, optional
        What errors call it; by default its path.

    Returns
    -------
    AudioInfo
        Samples, rate and channels.

    Raises
    ------
    AudioError
        The file is absent, empty or not audio.

    Example
    -------
    >>> file = str(getfixture("tmpdir").join("a.wav"))
    >>> soundfile.write(file, [0.0] * 1600, 16000)
    >>> audio_info(file).frames
    1600
    """
    with open_sound(path, name or _name_of(path)) as sound:
        return AudioInfo(sound.frames, sound.samplerate, sound.channels)


def read_utterance(
    path,
    sample_rate=16000,
    start=None,
    stop=None,
    resample=False,
    mix_channels=False,
    name=None,
):
    """Read an utterance as one float32 waveform.

    Arguments
    ---------
    path : str, pathlib.Path or binary file
        The file; an open binary file (audio held in memory) also serves.
    sample_rate : int
        The rate that the encoder takes, in hertz.
    start, stop : int, optional
        The part to read, in samples at the file's own rate: from ``start``
        to before ``stop``. By default the whole file.
    resample : bool
        Convert another rate instead of refusing it.
    mix_channels : bool
        Average several channels instead of refusing them.
    name : str, optional
        What errors call it; by default its path.

    Returns
    -------
    wav_N : torch.Tensor
        float32 samples, nominally in [-1, 1].

    Raises
    ------
    AudioError
        The file is absent, unreadable, cut short, empty, has NaN or
        infinite samples, or another rate or more channels than allowed.

    Example
    -------
    >>> file = str(getfixture("tmpdir").join("a.wav"))
    >>> soundfile.write(file, [0.5] * 1600, 16000)
    >>> read_utterance(file, start=100).shape
    torch.Size([1500])
    """
    name = name or _name_of(path)
    with open_sound(path, name) as sound:
        _check_format(sound, name, sample_rate, resample, mix_channels)
        rate = sound.samplerate
        wav_NC = _read_part(sound, name, start, stop)
    wav_N = wav_NC.mean(1) if wav_NC.shape[1] > 1 else wav_NC[:, 0]
    if not torch.isfinite(wav_N).all():
        raise AudioError(
            f"{name}: holds NaN or infinite samples: write it again from its "
            "source, or leave the utterance out"
        )
    if rate != sample_rate:
        wav_N = resampler(rate, sample_rate)(wav_N)
    return wav_N.contiguous()


def check_format(
    info, name, sample_rate=16000, resample=False, mix_channels=False
):
    """Refuse, from the head alone, what `read_utterance` would refuse.

    Arguments
    ---------
    info : AudioInfo
        From `audio_info`.
    name : str
        What errors call the file.
    sample_rate : int
        The rate that the encoder takes, in hertz.
    resample, mix_channels : bool
        As in `read_utterance`.

    Raises
    ------
    AudioError
        No samples, another rate, or more channels than allowed.

    Example
    -------
    >>> check_format(AudioInfo(1600, 8000, 1), "a.wav", resample=True)
    """
    if info.frames == 0:
        raise AudioError(
            f"{name}: has no samples: fetch or convert it again, or leave "
            "the utterance out"
        )
    if info.sample_rate != sample_rate and not resample:
        raise AudioError(
            f"{name}: sample rate {info.sample_rate} Hz, but the encoder "
            f"takes {sample_rate} Hz: convert it (ffmpeg -i IN -ar "
            f"{sample_rate} OUT.flac) or set resample: True"
        )
    if info.channels > 1 and not mix_channels:
        raise AudioError(
            f"{name}: {info.channels} channels, but the encoder takes one: "
            "convert it (ffmpeg -i IN -ac 1 OUT.flac) or set "
            "mix_channels: True"
        )


def _check_format(sound, name, sample_rate, resample, mix_channels):
    info = AudioInfo(sound.frames, sound.samplerate, sound.channels)
    check_format(info, name, sample_rate, resample, mix_channels)


def _name_of(path):
    if isinstance(path, (str, os.PathLike)):
        return os.fspath(path)
    return getattr(path, "name", None) or "audio held in memory"


def open_sound(path, name):
    """Open a sound file, or say in plain words why not.

    Arguments
    ---------
    path : str, pathlib.Path or binary file
        The file.
    name : str
        What errors call it.

    Returns
    -------
    soundfile.SoundFile

    Raises
    ------
    AudioError
        The file is absent, empty or not audio.
    """
    if isinstance(path, (str, os.PathLike)):
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise AudioError(
                f"{name}: no such audio file: check data_folder, or fetch "
                "the file again"
            )
        if os.path.getsize(path) == 0:
            raise AudioError(f"{name}: is empty (0 bytes): fetch it again")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(
            f"{name}: cannot be read as audio ({error}): fetch or convert "
            "it again"
        ) from error


def _read_part(sound, name, start, stop):
    """Samples ``start`` to ``stop`` of an open file, float32, [N, C]."""
    first = 0 if start is None else int(start)
    last = sound.frames if stop is None else int(stop)
    if not 0 <= first < last <= sound.frames:
        raise AudioError(
            f"{name}: asked for samples {first} to {last}, but the file has "
            f"{sound.frames}: correct start and stop"
        )
    # libsndfile's seek in an MP3 lands elsewhere (tried: it gave silence), so
    # there the beginning is decoded too, and cut off.
    skipped = first if sound.format in ("MP3", "MPEG") else 0
    try:
        if skipped < first:
            sound.seek(first)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _damaged(name, error) from error
    return read_block(sound, last - first + skipped, name)[skipped:]


def read_block(sound, count, name):
    """The next samples of an open sound file.

    Arguments
    ---------
    sound : soundfile.SoundFile
        The file, where it stands.
    count : int
        Samples of each channel.
    name : str
        What errors call it.

    Returns
    -------
    torch.Tensor
        float32, shape ``[N, C]``.

    Raises
    ------
    AudioError
        The file is damaged, or ends before.
    """
    try:
        samples = sound.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _damaged(name, error) from error
    if len(samples) < count:
        # libsndfile gives what there is of an MP3 cut short, in silence.
        raise AudioError(
            f"{name}: is cut short: {count} samples announced, "
            f"{len(samples)} there: fetch or convert it again"
        )
    return torch.from_numpy(samples)


def _damaged(name, error):
    return AudioError(
        f"{name}: is damaged ({error}): fetch or convert it again"
    )


@lru_cache(maxsize=8)
def resampler(rate, sample_rate):
    """A converter of waveforms from one rate to another (callable)."""
    # Kept because its filter takes longer to design than to apply.
    return torchaudio.transforms.Resample(rate, sample_rate)
