"""What is called a recording and is none, and what would do more than sound.

Pipes that nobody fills, links in circles, devices, folders, playlists that
name other files, days of silence in a small file.
"""

from __future__ import annotations

import io
import os
import socket
import traceback

import click
import soundfile
import torch

from soak.recordings_audio import seed, wrong_with
from soak.recordings_cells import sound
from soak.recordings_child import unclear
from speechllm.cli.audio import _expand
from speechllm.exported.audio import as_sounds

RATE = 16000
# Formats that may name other files: none is followed.
LISTS = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n",
    "concat": "ffconcat version 1.0\nfile '{file}'\n",
    "dash": "<?xml version='1.0'?><MPD><Period><AdaptationSet><Representation>"
    "<BaseURL>file://{file}</BaseURL></Representation></AdaptationSet></Period>"
    "</MPD>",
    "session": "v=0\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 96\n",
    "link": "[InternetShortcut]\nURL=file://{file}\n",
    "stream": "[playlist]\nFile1={file}\nNumberOfEntries=1\n",
    "image": "P6 9 9 255\n",
}
ENDINGS = "wav flac mp3 m4a opus webm sph oga aiff m3u8 mkv mpd txt".split()


def odd_case(random, folder) -> str:
    """One thing of some kind in a recording's place, read by all readers."""
    return put(random, folder, random.choice(list(KINDS)))


def naming_case(random, folder) -> str:
    """A text that players follow to another recording."""
    return put(random, folder, "naming")


def put(random, folder, kind) -> str:
    """Put something there, and read it."""
    file = folder / f"a.{random.choice(ENDINGS)}"
    (folder / "secret.wav").write_bytes(sound("WAV"))
    expected = KINDS[kind](random, file)
    wrong = wrong_with(random, str(file)) or listed(random, folder, file)
    if not wrong and expected == "refused":
        try:
            ((one,), _) = as_sounds([str(file)])
            one.check(RATE)
            many = sum(map(len, one.blocks(RATE)))
        except ValueError:
            return ""
        return f"{kind}: {many} samples came of it"
    return wrong and f"{kind}: {wrong}"


def listed(random, folder, file) -> str:
    """What ``speechllm transcribe FOLDER`` takes from a folder like that."""
    (folder / "round").symlink_to(".")
    try:
        found = _expand([str(folder)])
    except click.ClickException as error:
        return unclear(error.format_message(), str(folder))
    except Exception:
        return traceback.format_exc()
    outside = [f for f in found if not f.startswith(str(folder))]
    return f"{outside} came in" if outside else ""


def pipe(random, file):
    """Nobody writes into it."""
    os.mkfifo(file)
    return "refused"


def device(random, file):
    """Gives without end, or waits."""
    file.symlink_to(random.choice(("/dev/zero", "/dev/random", "/dev/null")))
    return "refused"


def kernel(random, file):
    """A file of no size that has content, or cannot be read."""
    names = ("/proc/self/mem", "/proc/self/environ", "/proc/self/status")
    file.symlink_to(random.choice(names))
    return "refused"


def circle(random, file):
    """Links that lead to each other."""
    other = file.with_name("other")
    file.symlink_to(random.choice((other, file)))
    other.symlink_to(file)
    return "refused"


def nowhere(random, file):
    """A link to what is not there."""
    file.symlink_to("absent")
    return "refused"


def directory(random, file):
    """A folder with a recording's name."""
    file.mkdir()
    (file / "a.wav").write_bytes(sound("WAV"))
    return "refused"


def endpoint(random, file):
    """A socket; its address is short, wherever the folder is."""
    here = os.getcwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(file.name)
    finally:
        os.chdir(here)
    return "refused"


def unreadable(random, file):
    """Nobody but root may read it; root may."""
    file.write_bytes(sound("WAV"))
    file.chmod(0)
    return ""


def naming(random, file):
    """A text that names another recording."""
    secret = random.choice((str(file.with_name("secret.wav")), "secret.wav"))
    text = random.choice(list(LISTS.values())).format(file=secret)
    before = random.choice((b"",) * 8 + (b"\xef\xbb\xbf", b"ID3\4\0\0\0\0\0\0"))
    file.write_bytes(before + text.encode())
    return "refused"


def silence(random, file):
    """Hours of silence in some kilobytes: told, or read in little memory."""
    target, rate = io.BytesIO(), random.choice((8000, 16000, 48000, 655_350))
    hours = 1 if rate <= 16000 else 0.1
    wave = torch.zeros(int(hours * 3600 * rate)).numpy()
    soundfile.write(target, wave, rate, "PCM_16", format="FLAC")
    file.write_bytes(target.getvalue())
    return ""


def growing(random, file):
    """A recording that is still being written: its head says more."""
    name = random.choice(("a.wav", "a.flac", "a.m4a", "a.webm", "a.opus"))
    content = seed(name)
    file.write_bytes(content[: random.randrange(len(content))])
    return ""


KINDS = {
    one.__name__: one
    for one in (
        *(pipe, device, kernel, circle, nowhere, directory, endpoint),
        *(unreadable, naming, growing),
    )
}


def silence_case(random, folder) -> str:
    """Hours of silence, in memory that does not grow with them."""
    file = folder / "a.flac"
    silence(random, file)
    try:
        ((one,), _) = as_sounds([str(file)])
        one.check(RATE)
        many = sum(map(len, one.blocks(RATE)))
    except ValueError as error:
        return unclear(str(error), str(file))
    return "" if many else "nothing was read"
