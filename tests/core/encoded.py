"""Sound files of many formats, as bytes, as the world writes them."""

import io
import os

import av
import numpy as np
import soundfile


class Pipe:
    """What cannot be rewound: no length can be written into a head."""

    def __init__(self):
        self.content = bytearray()

    def write(self, data):
        """Write."""
        self.content += data
        return len(data)


# Container, codec, rate, and whether it is written into a pipe.
KINDS = {
    "streamed.mp3": ("mp3", "libmp3lame", 48000, True),
    "headed.mp3": ("mp3", "libmp3lame", 44100, False),
    "a.m4a": ("ipod", "aac", 44100, False),
    "a.aac": ("adts", "aac", 16000, True),
    "a.webm": ("webm", "libopus", 48000, False),
    "streamed.webm": ("webm", "libopus", 48000, True),
    "a.opus": ("ogg", "libopus", 48000, True),
    "streamed.flac": ("flac", "flac", 16000, True),
    "a.flac": ("flac", "flac", 16000, False),
    "streamed.wav": ("wav", "pcm_s16le", 16000, True),
    "a.wav": ("wav", "pcm_s16le", 16000, False),
}
MADE_OTHERWISE = ("ogg.oga", "flac.oga", "fast.m4a", "a.sph")
# A place to write a file that FFmpeg opens twice.
SOUND_KINDS = (*KINDS, *MADE_OTHERWISE)


def noise(seconds, rate, seed=0):
    """Noise that comes and goes, float ``[N]``: no two parts are alike."""
    time = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 + 150 * time) * time)
    random = np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * tone + 0.03 * random) * (0.2 + np.abs(np.sin(3 * time)))


def encode(target, wav, rate, container, codec, **options):
    """Write a waveform with FFmpeg."""
    values = (wav * 32767).astype(np.int16)[None]
    with av.open(target, "w", format=container, options=options) as out:
        out.metadata["title"] = "A sentence of some length, so that it counts"
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
        frame.sample_rate = rate
        for part in (frame, None):
            out.mux(stream.encode(part))


def encoded(kind, seconds=4.0, seed=0):
    """A sound file's bytes, and its rate."""
    if kind in KINDS:
        container, codec, rate, piped = KINDS[kind]
        target = Pipe() if piped else io.BytesIO()
        encode(target, noise(seconds, rate, seed), rate, container, codec)
        content = target.content if piped else target.getvalue()
        return bytes(content), rate
    wav = noise(seconds, 16000, seed)
    target = io.BytesIO()
    if kind == "ogg.oga":
        soundfile.write(target, wav, 16000, format="OGG")
    elif kind == "flac.oga":
        _as_ogg(encoded("a.flac", seconds, seed)[0], target)
    elif kind == "a.sph":
        target.write(sphere((wav * 32767).astype("<i2").tobytes(), 16000))
    return target.getvalue(), 16000


def write_encoded(path, kind, seconds=4.0, seed=0):
    """A sound file on the disk; gives its rate."""
    if kind == "fast.m4a":
        # Its index stands before the sound: a cut leaves it readable.
        wav = noise(seconds, 16000, seed)
        encode(str(path), wav, 16000, "ipod", "aac", movflags="+faststart")
        return 16000
    content, rate = encoded(kind, seconds, seed)
    path.write_bytes(content)
    return rate


def _as_ogg(flac, target):
    """The same FLAC packets in an Ogg container."""
    out = av.open(target, "w", format="ogg")
    with out, av.open(io.BytesIO(flac)) as source:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)


def sphere(content, rate):
    """NIST's SPHERE around 16-bit samples, as the LDC's corpora have it."""
    head = (
        "NIST_1A\n   1024\n"
        f"sample_count -i {len(content) // 2}\nsample_n_bytes -i 2\n"
        "channel_count -i 1\nsample_byte_format -s2 01\n"
        f"sample_rate -i {rate}\nsample_coding -s3 pcm\nend_head\n"
    )
    return head.encode().ljust(1024) + content


def cases(name):
    """One of the small files that fail; None where they are not there."""
    folder = os.environ.get("SPEECHLLM_CASES")
    return folder and os.path.join(folder, name)
