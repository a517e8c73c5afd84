"""Decode audio files of any format, and notice what is cut or damaged.

FFmpeg reads them, through PyAV. It goes on where a file is broken, as a
player should; a corpus must not be shortened so. What it says of damage is
listened to here, and what it leaves out is looked for
(`speechbrain_ext.data.audio_damage`).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
import soundfile
import torch

from speechbrain_ext.data.audio_damage import (
    AudioError,
    PacketCheck,
    cut_short,
    damaged,
    no_samples,
    riff_is_whole,
)

# Formats that hold sound, and nothing that names other files (HLS, concat).
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,"  # codespell:ignore caf
    "eac3,flac,matroska,mov,mp3,mpeg,"
    "mpegts,nistsphere,ogg,tta,voc,w64,wav,webm,wv"
)
# Titles in Latin-1 are no reason to refuse the sound; from PyAV 19 on they
# never are, and nothing need be said.
PYAV = int(av.__version__.partition(".")[0])
TITLES = {"metadata_errors": "replace"} if PYAV < 19 else {}
# Their heads state the length to the sample; elsewhere it is an estimate, or
# what an encoder has filled up.
STATED = ("wav", "flac", "aiff", "au", "nistsphere")
# Containers whose duration says, within some packets, what should be there.
TIMED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg", "asf")
TIMED_WITHIN = 0.15
# Seconds between the times of two packets that are no jitter.
GAP = 0.05
MOST_OF_VORBIS = 8192
ANEW = "write it anew with ffmpeg -i IN OUT.flac"
# Bytes that FFmpeg may ask for at once. It believes what a head says of titles
# and tables before it reads any; its own limit is four times this.
MOST_AT_ONCE = 2**29
with suppress(OSError, AttributeError):
    ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(MOST_AT_ONCE))


@dataclass(frozen=True)
class AudioInfo:
    """What the head of an audio file says: samples per channel, rate in hertz.

    The frames are None where the head does not state them exactly.
    """

    frames: int | None
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float | None:
        """Duration in seconds, where the frames are known."""
        return None if self.frames is None else self.frames / self.sample_rate


class _Nameless:
    """A file without its name, whose ending FFmpeg might believe."""

    def __init__(self, stream):
        self.read, self.seek = stream.read, stream.seek
        self.tell = stream.tell


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Whatever error a library raises becomes one that names the file."""
    try:
        yield
    except (AudioError, ImportError, TypeError):
        # A package that is not there, or is called in a way that it does not
        # know, is no damage to the file.
        raise
    # PyAV has a class of error for each of FFmpeg's, numpy and the operating
    # system have theirs.
    except Exception as error:
        raise damaged(name, _reason(error)) from error


def _reason(error):
    """What a library says, without FFmpeg's numbers (str)."""
    if getattr(error, "errno", None) == errno.ENOMEM:
        return f"its head asks for over {MOST_AT_ONCE >> 20} MB at once"
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__


class AudioFile:
    """An audio file, opened: its head, and its samples as they are decoded."""

    def __init__(self, source: str | os.PathLike | BinaryIO, name: str):
        self.name = name
        self._own = isinstance(source, (str, os.PathLike))
        self._stream = _opened(source, name) if self._own else source
        self._container = None
        try:
            with naming(name):
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self):
        stream = self._stream
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self.head = stream.read(512)
        stream.seek(0)
        if self.size == 0:
            raise AudioError(f"{self.name}: is empty (0 bytes): fetch it again")
        try:
            self._container = av.open(
                _Nameless(stream),
                options={"format_whitelist": FORMATS},
                **TITLES,
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise self._no_audio(_reason(error)) from error
        sounds = self._container.streams.audio
        if not sounds or sounds[0].codec_context is None:
            raise self._no_audio("no sound that can be decoded")
        self._sound = sounds[0]
        codec = self._sound.codec_context
        self.format, self.codec = self._container.format.name, codec.name
        if not codec.sample_rate or not codec.channels:
            raise self._no_audio("neither rate nor channels are told")
        if self.codec == "flac":
            codec.options = {"err_detect": "crccheck+explode"}
        codec.thread_count = 1
        rate = codec.sample_rate
        self.info = AudioInfo(self._stated(rate), rate, codec.channels)

    def _no_audio(self, why):
        """The error of a file that is something else."""
        start = self.head[:30]
        if start.strip() and all(9 <= byte < 127 for byte in start):
            why = f"it begins with {start.decode().split(chr(10))[0]!r}"
        return AudioError(
            f"{self.name}: cannot be read as audio ({why}): fetch or convert "
            "it again"
        )

    def _stated(self, rate):
        """Samples that the head states exactly and plausibly, or None."""
        duration = self._sound.duration
        pcm = self.codec.startswith("pcm_")
        if self.format not in STATED or duration is None or duration < 0:
            return None
        if not (pcm or self.codec == "flac"):
            return None
        if self.format == "wav" and not riff_is_whole(self.head, self.size):
            return None
        frames = round(duration * self._sound.time_base * rate)
        if pcm:
            # "pcm_s16le", "pcm_mulaw".
            bits = int("".join(filter(str.isdigit, self.codec)) or 8)
            least = frames * self._sound.codec_context.channels * bits / 8
        else:
            # No frame of FLAC holds more.
            least = frames / 65535
        return frames if least <= self.size else None

    def samples(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Decode, channels averaged, from ``start`` to before ``stop``.

        Arguments
        ---------
        start : int
            First sample, at the file's own rate.
        stop : int or None
            Sample after the last; None: to the end, and the file must be
            whole.

        Yields
        ------
        torch.Tensor
            float32 ``[N]``, as the frames come.

        Raises
        ------
        AudioError
            The file is cut short, damaged, or has no such part.
        """
        with naming(self.name):
            yield from self._part(start, stop)

    def _part(self, start, stop):
        known = self.info.frames
        last = known if stop is None else stop
        nothing = start < 0 or (last is not None and start >= last)
        if nothing or (known is not None and last > known):
            raise self._no_part(start, last, known)
        jumped = self._jump(start)
        place = None if jumped else 0
        for time, wav_N in self._waves(whole=not jumped):
            if place is None:
                place = round(time * self.info.sample_rate)
            first, place = place, place + len(wav_N)
            end = len(wav_N) if stop is None else max(0, stop - first)
            wav_N = wav_N[max(0, start - first) : end]
            if len(wav_N):
                yield wav_N
            if stop is not None and place >= stop:
                return
        if stop is not None or place is None or place <= start:
            raise self._no_part(start, last, place or 0)

    def _jump(self, start):
        """Whether the file now stands before a sample far from its begin."""
        # Where the length is an estimate, so is the place of a jump.
        if start == 0 or self.info.frames is None:
            return False
        try:
            self._container.seek(start, stream=self._sound)
        except av.error.FFmpegError:
            # So it is with a FLAC file of a second.
            self._container.close()
            self._open()
            return False
        return True

    def _no_part(self, start, stop, there):
        if there is None:
            there = sum(len(wav_N) for _, wav_N in self._waves(whole=True))
        if not there and start == 0:
            return no_samples(self.name)
        return AudioError(
            f"{self.name}: asked for samples {start} to {stop}, but the file "
            f"has {there}: correct start and stop"
        )

    def _waves(self, whole):
        """Time and mono waveform of what is decoded, bit by bit."""
        if self.format == "ogg" and self.codec == "vorbis":
            yield from self._vorbis()
            return
        for frame in self._frames(whole):
            yield frame.time, self._mono(frame)

    def _vorbis(self):
        """Vorbis by libsndfile, after FFmpeg has looked for damage."""
        # FFmpeg counts the first packet, which gives no samples: a file of
        # one page loses or wins some hundred at its end.
        for _ in self._frames(whole=True):
            pass
        self._stream.seek(0)
        with soundfile.SoundFile(self._stream) as sound:
            if abs(sound.frames - self.decoded) > MOST_OF_VORBIS:
                raise self._not_as_announced(sound.frames)
            for values in sound.blocks(
                sound.samplerate, dtype="float32", always_2d=True
            ):
                yield 0.0, torch.from_numpy(values).mean(1)

    def _frames(self, whole):
        """Decoded frames; refuses damage and, of a whole file, a cut."""
        self.decoded, self._next = 0, None
        check = PacketCheck(self)
        for packet in self._container.demux(self._sound):
            if not check.is_sound(packet):
                continue
            for frame in packet.decode():
                self._check_frame(frame, check.mp3)
                self.decoded += frame.samples
                yield frame
        if whole:
            self._check_length()
            check.end(self._stream)

    def _check_frame(self, frame, mp3):
        """Refuse what the decoder hides, and time that is not there."""
        rate = self.info.sample_rate
        if frame.is_corrupt:
            raise damaged(self.name, f"at {self.decoded / rate:.1f} s")
        if frame.sample_rate != rate:
            raise AudioError(
                f"{self.name}: its sample rate changes from {rate} to "
                f"{frame.sample_rate} Hz: convert it (ffmpeg -i IN OUT.flac)"
            )
        if frame.pts is None or mp3:
            return
        gap = 0 if self._next is None else frame.time - self._next
        if gap > GAP:
            raise damaged(
                self.name,
                f"{gap:.2f} s are missing after {self._next:.1f} s",
                "if that is as it should be, ffmpeg -i IN -af "
                "aresample=async=1 OUT.flac makes them silence",
            )
        self._next = frame.time + frame.samples / rate

    def _check_length(self):
        """Refuse less than the head announces, or more where it is exact."""
        seconds, exact = self._sound.duration, self.format in STATED
        if seconds:
            seconds *= self._sound.time_base
        elif self.format in TIMED and self._container.duration:
            seconds = self._container.duration / av.time_base
        if not seconds or not (exact or self.format in TIMED):
            return
        rate = self.info.sample_rate
        announced = round(seconds * rate)
        less = 0.5 if exact else TIMED_WITHIN * rate
        if self.decoded < seconds * rate - less:
            raise cut_short(self.name, f"{announced} samples", self.decoded)
        if exact and self.decoded > seconds * rate + less:
            raise self._not_as_announced(announced)

    def _not_as_announced(self, announced):
        why = f"{announced} samples announced, {self.decoded} there"
        return damaged(self.name, why, ANEW)

    def _mono(self, frame):
        """A frame's samples as one float32 waveform (torch.Tensor)."""
        channels = frame.layout.nb_channels
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, channels).T
        if values.dtype == np.uint8:
            values = (values.astype(np.float32) - 128) / 128
        elif values.dtype.kind == "i":
            full = np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
            values = values.astype(np.float32) / full
        wav_CN = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        return wav_CN.mean(0) if channels > 1 else wav_CN[0]

    def close(self):
        """Let go of the file; one that was given open stays so."""
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._own:
            self._stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _opened(path, name):
    """Open a file for reading, or say in plain words why not."""
    # A pipe would be waited for without end.
    if not os.path.isfile(path):
        there = os.path.exists(path)
        why = " (but a folder, pipe or device)" if there else ""
        raise AudioError(
            f"{name}: no such audio file{why}: check data_folder, or fetch "
            "the file again"
        )
    try:
        return open(path, "rb")
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error})") from error
