"""What FFmpeg does not say of a file that is cut short or damaged.

It plays what it finds. Of these formats the end, or each frame, tells whether
something is missing; where neither does, nobody can know.
"""

import os

AGAIN = "fetch or convert it again"
MP3 = ("mp3", "mp3float")
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
# Shorter than any frame of speech in an MP3.
CRUMB = 24
KBPS = {
    # MPEG 1, and MPEG 2 and 2.5, layer III.
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000)}
HERTZ[0] = (11025, 12000, 8000)
# What a WAV file says of its size when it came out of a pipe.
ENDLESS = 0x7FFFF000
HEAD_ALONE = 100


class AudioError(ValueError):
    """An utterance that cannot be used; the message names file and mend."""


def damaged(name, why, mend=AGAIN):
    """The error of a damaged file."""
    return AudioError(f"{name}: is damaged ({why}): {mend}")


def cut_short(name, announced, there):
    """The error of a file whose end is missing."""
    return AudioError(
        f"{name}: is cut short: {announced} announced, {there} there: {AGAIN}"
    )


def no_samples(name):
    """The error of a file without sound."""
    return AudioError(
        f"{name}: has no samples: fetch or convert it again, or leave the "
        "utterance out"
    )


class PacketCheck:
    """Looks at the packets of a file, and at its end."""

    def __init__(self, sound):
        self.sound = sound
        self.first = self.last = None
        self.frames = 0
        self.mp3 = sound.codec in MP3 and sound.format == "mp3"
        self.flac = sound.format == "flac"
        size = _riff_size(sound.head, sound.size)
        # FFmpeg calls the last packet of a stream of unknown size corrupt.
        self.may_be_corrupt = sound.format == "wav" and size is None

    def is_sound(self, packet):
        """Whether a packet is to be decoded; refuses a broken one."""
        if packet.is_corrupt and not self.may_be_corrupt:
            raise cut_short(self.sound.name, "a whole packet", "a part")
        if packet.size and packet.pos is not None:
            self.first = packet.pos if self.first is None else self.first
            self.last = packet.pos + packet.size
            # FFmpeg's FLAC parser may give its last guess of a frame too, at
            # the end of the file: 1 of 12,000 sound files was one.
            if self.flac and packet.pos >= self.sound.size:
                return False
        if not self.mp3 or not packet.size:
            return True
        is_frame = self._check_mp3(bytes(packet))
        self.frames += is_frame
        return is_frame

    def _check_mp3(self, data):
        """Whether this is a frame of an MP3 and not a tag between two."""
        if data.startswith(TAGS) or len(data) < CRUMB:
            return False
        size = mp3_frame_size(data)
        if size is None:
            at = f"no frame at byte {self.last - len(data)}"
            raise damaged(self.sound.name, at)
        if size == 0:
            return True
        if len(data) < size:
            raise cut_short(
                self.sound.name, f"a frame of {size} bytes", len(data)
            )
        rest = data[size:]
        if len(rest) >= CRUMB and not rest.startswith(TAGS):
            at = f"no frame at byte {self.last - len(rest)}"
            raise damaged(self.sound.name, at)
        return True

    def end(self, stream):
        """Refuse a file that ends before its time; reads in ``stream``."""
        name, kind = self.sound.name, self.sound.format
        if self.mp3 and self.first is not None:
            announced = _xing_frames(stream, self.first)
            # Some encoders count the frame that holds the number.
            if self.frames < announced - 1:
                raise cut_short(name, f"{announced} frames", self.frames)
        elif kind == "ogg" and not _ogg_is_whole(stream, self.sound.size):
            raise cut_short(name, "a last page", "none")
        elif kind == "matroska,webm" and self.last is not None:
            # Its head and the block's may state no length: half a block is
            # left over. A position is that of the block's own head, 4 bytes.
            stream.seek(self.last + 4)
            if stream.read(4).startswith((b"\xa3", b"\xa0", b"\x1fC\xb6u")):
                raise cut_short(name, "a whole block", "a part")


def mp3_frame_size(data):
    """Bytes of the layer III frame that begins here."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, data[1] >> 1 & 3
    rate, hertz, padding = data[2] >> 4, data[2] >> 2 & 3, data[2] >> 1 & 1
    if version == 1 or layer == 0 or rate == 15 or hertz == 3:
        return None
    if layer != 1 or rate == 0:
        return 0
    bits = KBPS[1 if version == 3 else 2][rate] * 1000
    per_frame = 144 if version == 3 else 72
    return per_frame * bits // HERTZ[version][hertz] + padding


def riff_is_whole(head, size):
    """Whether a WAV file's head fits its size, or says that it cannot."""
    if head[:4] != b"RIFF":
        return False
    announced = _riff_size(head, size)
    return announced is None or announced <= size


def _riff_size(head, there):
    """Bytes that a WAV file announces; None: unknown, from a pipe."""
    size = int.from_bytes(head[4:8], "little")
    # Some writers put 0 or the most there, some the size before any sample.
    before_any = size < HEAD_ALONE < there - 8
    return None if before_any or size == 0 or size >= ENDLESS else size + 8


def _xing_frames(stream, first):
    """Frames that an MP3 announces before its first one; 0: it does not."""
    stream.seek(max(0, first - 2048))
    before = stream.read(min(first, 2048))
    for word in (b"Xing", b"Info"):
        at = before.rfind(word)
        if at >= 0 and before[at + 7 : at + 8] and before[at + 7] & 1:
            return int.from_bytes(before[at + 8 : at + 12], "big")
    return 0


def _ogg_is_whole(stream, size):
    """Whether the last page of an Ogg file is whole and marked as the last."""
    # A page has 65307 bytes at most.
    start = max(0, size - 2 * 65307)
    stream.seek(start, os.SEEK_SET)
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lengths)
