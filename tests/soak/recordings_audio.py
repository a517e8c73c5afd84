"""Recordings of nine formats: cut, flipped, with a head that lies.

Each case is read as the prepare scripts and training read it, and as
``speechllm transcribe`` does.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import traceback

import soundfile
from encoded import encoded, noise

from soak.recordings_child import unclear
from speechbrain_ext.data.audio import audio_info, read_utterance
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.manifests import audio_seconds
from speechllm.exported.audio import as_sounds

RATE = 16000
SECONDS = 0.3
# Each format's seeds, as tests/core/encoded.py writes them.
FORMATS = {
    "wav": ("a.wav", "streamed.wav"),
    "flac": ("a.flac", "streamed.flac"),
    "mp3": ("headed.mp3", "streamed.mp3"),
    "m4a": ("a.m4a",),
    "opus": ("a.opus", "ogg.oga"),
    "webm": ("a.webm", "streamed.webm"),
    "sph": ("a.sph",),
    "oga": ("flac.oga",),
    "aiff": ("a.aiff",),
}
BLANK = (
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\0\0\0\1",
    b"\1\0\0\0",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
)
TEXTS = (
    b"ID,duration,wav\na,1.0,a.wav\n",
    b"<!DOCTYPE html><html><body>404</body></html>\n",
    b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    b"ffconcat version 1.0\nfile secret.wav\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 96\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    b"\0" * 300,
    b"RIFF",
    b"\x1f\x8b\x08\0",
)


@functools.cache
def seed(name: str) -> bytes:
    """A sound recording of a kind."""
    if name == "a.aiff":
        target = io.BytesIO()
        wave = noise(SECONDS, RATE)
        soundfile.write(target, wave, RATE, "PCM_16", format="AIFF")
        return target.getvalue()
    return encoded(name, SECONDS)[0]


def make_seeds() -> None:
    """All of them, before any child is forked."""
    for names in FORMATS.values():
        for name in names:
            seed(name)


# ----------------------------------------------------------------------------
# What is done to them.


def damaged(random, form: str) -> bytes:
    """A recording that something happened to, or one that was sound."""
    content = bytearray(seed(random.choice(FORMATS[form])))
    if form in HEADS and random.random() < 0.4:
        content = bytearray(HEADS[form](random, bytes(content)))
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        content = random.choice(CHANGES)(random, content)
    return bytes(content)


def _cut(random, content):
    return content[: random.randrange(len(content) + 1)]


def _flip(random, content):
    for _ in range(random.choice((1, 1, 2, 8, 40))):
        if content:
            place = random.randrange(len(content))
            content[place] ^= 1 << random.randrange(8)
    return content


def _flip_head(random, content):
    most = min(len(content), random.choice((16, 64, 256, 1024)))
    for _ in range(random.choice((1, 2, 4))):
        if most:
            content[random.randrange(most)] = random.randrange(256)
    return content


def _field(random, content):
    """A length, count or rate in the head, or anywhere, that cannot be."""
    if len(content) > 8:
        most = random.choice((64, 256, len(content) - 4))
        place = random.randrange(min(most, len(content) - 4))
        content[place : place + 4] = random.choice(BLANK)
    return content


def _lose(random, content):
    first = random.randrange(len(content) + 1)
    return content[:first] + content[first + random.randrange(2000) :]


def _more(random, content):
    place = random.randrange(len(content) + 1)
    size = random.choice((1, 100, 5000))
    more = random.choice((bytes(size), random.randbytes(size)))
    return content[:place] + more + content[place:]


def _twice(random, content):
    """Two in one file, of one format or of two."""
    other = random.choice([n for names in FORMATS.values() for n in names])
    return content + random.choice((content, bytearray(seed(other))))


def _other_head(random, content):
    other = random.choice([n for names in FORMATS.values() for n in names])
    size = random.choice((4, 12, 44, 200))
    return bytearray(seed(other)[:size]) + content[size:]


def _text(random, content):
    text = random.choice(TEXTS)
    return bytearray(random.choice((text, text + content, content + text)))


CHANGES = (
    _cut,
    _flip,
    _flip,
    _flip_head,
    _flip_head,
    _field,
    _field,
    _lose,
    _more,
    _twice,
    _other_head,
    _text,
)

# ----------------------------------------------------------------------------
# Heads by their grammar: any number in any place.

RATES = (8, 99, 100, 8000, 11025, 16000, 44101, 48000, 768_000, 767_999, 10**7)
NUMBERS = (0, 1, 2, 3, 8, 64, 65, 1000, 65535)


def wav_head(random, content):
    """A RIFF file of any code, channels, rate, width and announced length."""
    code, width = random.choice(
        ((1, 16), (1, 8), (1, 24), (1, 32), (3, 64), (6, 8), (7, 8))
        + ((3, 32),) * 4
        + (
            (2, 4),
            (17, 4),
            (0x55, 0),
            (0xFFFE, 16),
            (random.choice(NUMBERS), 7),
        )
    )
    channels = random.choice((1, 1, 1, 2, 2, *NUMBERS))
    rate = random.choice((16000, *RATES, 0, 2**32 - 1))
    # Half of the heads are true, so that the samples are looked at.
    true = random.random() < 0.5
    channels, rate = (1, 16000) if true else (channels, rate)
    block = channels * width // 8 & 0xFFFF
    block = block if true else random.choice((block, *NUMBERS))
    data = content[44:]
    if code == 3 and width == 32:
        values = [random.choice((0.1, float("nan"), float("inf"), 1e38, 0.0))]
        data = struct.pack("<f", values[0]) * random.choice((0, 1, 99, 3000))
    if random.random() < 0.2:
        data = data[: random.choice((0, 1, 3))]
    told = random.choice((len(data), len(data), 0, 2**31, 2**32 - 1, 7))
    told = len(data) if true else told
    form = struct.pack(
        "<HHIIHH",
        code,
        channels,
        rate,
        random.choice((rate * block, 0, 2**32 - 1)) & 0xFFFFFFFF,
        block,
        width if true else random.choice((width, *NUMBERS)),
    )
    parts = [b"fmt ", struct.pack("<I", len(form)), form]
    parts += [b"data", struct.pack("<I", told), data]
    if random.random() < 0.1:
        parts = parts[3:] + parts[:3]
    size = random.choice((4 + sum(map(len, parts)), 0, 2**32 - 1, 50))
    name = random.choice((b"RIFF", b"RIFF", b"RIFX", b"RF64"))
    return name + struct.pack("<I", size) + b"WAVE" + b"".join(parts)


def sphere_head(random, content):
    """NIST's head with fields of any value, in any order, or without some."""
    rate = random.choice((16000, *RATES, -1, 0, 10**18))
    count = random.choice((4800, 0, -1, 10**6, 10**12, "x"))
    fields = [
        f"sample_count -i {count}",
        f"sample_n_bytes -i {random.choice((2, 1, 4, 0, -1, 99))}",
        f"channel_count -i {random.choice((1, 2, *NUMBERS, -1))}",
        f"sample_byte_format -s2 {random.choice(('01', '10', '1', 'mu'))}",
        f"sample_rate -i {rate}",
        "sample_coding -s"
        + random.choice(("3 pcm", "4 ulaw", "26 pcm,embedded-shorten-v2.00")),
    ]
    fields = random.sample(fields, random.choice((6, 6, 6, 5, 3)))
    fields += ["end_head"] * random.choice((0, 1, 1, 1))
    size = random.choice(("   1024", "      0", "  99999", " 1e9999", "-1"))
    head = "NIST_1A\n" + random.choice(("   1024", size)) + "\n"
    return (head + "\n".join(fields) + "\n").encode().ljust(1024) + content[
        1024:
    ]


def flac_head(random, content):
    """STREAMINFO with any rate, channels, width and count of samples."""
    rate = random.choice((16000, *RATES[:-1])) & 0xFFFFF
    count = random.choice((4800, 0, 1, 2**36 - 1, 10**9))
    bits = rate << 44 | random.randrange(8) << 41
    bits |= random.choice((15, 7, 23, 31, 0)) << 36 | count
    head = content[:10] + random.choice((content[10:18], random.randbytes(8)))
    return head + bits.to_bytes(8, "big") + content[26:]


def aiff_head(random, content):
    """A COMM chunk with any channels, frames, width and rate."""
    place = content.find(b"COMM") + 8
    exponent = random.choice((0x400C, 0x400C, 0x3FFF, 0x4016, 0x7FFF, 0xBFFF))
    comm = struct.pack(
        ">HIHHQ",
        random.choice((1, 1, 2, *NUMBERS)),
        random.choice((4800, 0, 2**31, 2**32 - 1)),
        random.choice((16, 8, 24, 32, 0, 1, 65535)),
        exponent,
        random.choice((0xFA << 56, 0, 2**64 - 1)),
    )
    return content[:place] + comm + content[place + len(comm) :]


HEADS = {
    "wav": wav_head,
    "sph": sphere_head,
    "flac": flac_head,
    "aiff": aiff_head,
}

# ----------------------------------------------------------------------------
# What is asked of the readers.


def audio_case(form):
    """A case of a format, as `recordings_child.tried` takes it."""

    def act(random, folder):
        ending = random.choice((form, form, form, "wav", "mp3", "flac"))
        file = folder / f"a.{ending}"
        file.write_bytes(damaged(random, form))
        return wrong_with(random, str(file))

    return act


def wrong_with(random, file: str) -> str:
    """Read a file in all ways; what is wrong with how that ends (str)."""
    resample = random.random() < 0.8
    for what, read in (
        ("audio_info", lambda: audio_info(file)),
        (
            "audio_seconds",
            lambda: audio_seconds(
                file, full=random.random() < 0.5, resample=resample
            ),
        ),
        ("read_utterance", lambda: utterance(random, file, resample)),
        ("transcribe", lambda: transcribed(random, file)),
    ):
        try:
            read()
        except AudioError as error:
            wrong = unclear(str(error), file)
        # What is no sound is none to every reader, and of one kind of error.
        except Exception:
            wrong = traceback.format_exc()
        else:
            wrong = ""
        if wrong:
            return f"{what}: {wrong}"
    return ""


def utterance(random, file, resample):
    """A whole file or a part of it, as training reads it."""
    part = {}
    if random.random() < 0.5:
        start = random.choice((0, 100, 4000, 10**12))
        part = {"start": start, "stop": start + random.choice((1, 800, 10**9))}
    wav_N = read_utterance(file, resample=resample, mix_channels=True, **part)
    assert wav_N.isfinite().all() and wav_N.dim() == 1 and len(wav_N)


def transcribed(random, file):
    """All of it, as ``speechllm transcribe`` reads it."""
    # An open file has its name too; a pipe would be waited for.
    open_too = os.path.isfile(file) and random.random() < 0.3
    with open(file if open_too else os.devnull, "rb") as stream:
        ((sound,), _) = as_sounds([stream if open_too else file])
        sound.check(RATE)
        for wav_N in sound.blocks(RATE):
            assert wav_N.isfinite().all() and wav_N.dim() == 1
