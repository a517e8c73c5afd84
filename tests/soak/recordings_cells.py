"""What lists of recordings hold: sound cells and senseless ones, and files.

Outside of the folder lies a recording that only an open word may bring in,
and a command in a list would leave a file behind.
"""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path

import soundfile
from encoded import encoded, noise

RATE = 16000
CANARY = "touch canary"
TEXTS = (
    *("", " ", "$5 a day", '"', '""', '"never closed', "a\tb", "\\", "\0"),
    *("\x1b[2J\x07", "é\u0301", "\u2028two", "\x85", "\x1ctwo", "two\rlines"),
    *("=1+1", "x" * 200_000, "{text}", "%s", "\u202eleft", "\ufeff", "#"),
    *("|", "a|b", "null", "nan", "\ud800"),
)
NUMBERS = (
    *("0", "0.1", "0.05", "-1", "nan", "inf", "-inf", "1e999", "1e-320"),
    *(
        "1e307",
        "0x10",
        "1_000",
        "\u0661",
        "9" * 5000,
        "1,5",
        "",
        " ",
        "x",
        "-0",
        "1e18",
    ),
)
NAMES = ("a", "b-1", "a", "", "é", "a b", "../up", "/etc", "a#0-9", "\0", "-")


def places(folder: Path) -> tuple[str, ...]:
    """What a list may call a recording: those there, and all that is not."""
    inside, outside = str(folder / "data"), str(folder / "secret.wav")
    return (
        *("a.wav", "sub/b.flac", "a.wav", "sub/b.flac", "c#0-9.wav"),
        *(f"{inside}/a.wav", outside, "../secret.wav", "sub/../../secret.wav"),
        *("absent.wav", "folder.wav", "pipe.wav", "loop.wav", "out.wav"),
        *("zero.wav", "text.wav", "", ".", "/", "~/a.wav", "$data_root/a.wav"),
        *("$HOME/a.wav", "file:///etc/passwd", "a.wav\0", "x" * 5000, "a.wav#"),
        *(f"{CANARY} |", f"| {CANARY}", f"{CANARY}|", f"`{CANARY}`"),
        *(f"$({CANARY})", "\ud800.wav", "é.wav", "\x1b[2J", "a.wav:12"),
    )


@functools.cache
def sound(form: str) -> bytes:
    """A short recording."""
    if form == "mp3":
        return encoded("headed.mp3", 0.2)[0]
    target = io.BytesIO()
    soundfile.write(target, noise(0.2, RATE), RATE, format=form)
    return target.getvalue()


def odd_files(data: Path) -> None:
    """Recordings, and things that are called so."""
    (data / "sub").mkdir(parents=True)
    for name in ("a.wav", "c#0-9.wav", "../secret.wav"):
        (data / name).write_bytes(sound("WAV"))
    (data / "sub/b.flac").write_bytes(sound("FLAC"))
    (data / "text.wav").write_text("ID,duration\n")
    (data / "folder.wav").mkdir()
    os.mkfifo(data / "pipe.wav")
    for name, target in (
        ("loop.wav", "loop.wav"),
        ("out.wav", "absent"),
        ("zero.wav", "/dev/zero"),
        ("sub/round", ".."),
    ):
        (data / name).symlink_to(target)


def cell(random, sound_one: str, *pools) -> str:
    """A sound cell, or any of some pools."""
    if random.random() < 0.8:
        return sound_one
    return random.choice(random.choice(pools))


def as_bytes(random, text: str) -> bytes:
    """A list's bytes; some are cut, flipped, or of another encoding."""
    content = text.encode("utf-8", "surrogatepass")
    way = random.random()
    if way < 0.75:
        return content
    if way < 0.8:
        return content[: random.randrange(len(content) + 1)]
    if way < 0.9:
        content = bytearray(content)
        for _ in range(random.choice((1, 3, 20))):
            if content:
                place = random.randrange(len(content))
                content[place] = random.choice((random.randrange(256), 9, 10))
        return bytes(content)
    plain = text.encode("utf-8", "replace").decode()
    return random.choice(
        (
            b"\xef\xbb\xbf" + content,
            plain.encode("utf-16"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
            content + content,
            content + random.randbytes(50),
            b"",
            b"\n\n\n",
        )
    )
