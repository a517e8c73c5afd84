"""Transcripts as text, JSON, SubRip (srt) and WebVTT subtitles."""

from __future__ import annotations

import html
import json
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechllm.exported.transcribe import Transcript

# Characters of a subtitle: two lines of 42, as is usual.
LONGEST = 84
LINE = 42


def cues(transcript: Transcript) -> list[tuple[float, float, str]]:
    """Subtitles of a transcript: start, end, text."""
    found = []
    for piece in transcript.pieces:
        parts = textwrap.wrap(piece.text, LONGEST)
        letters = sum(map(len, parts))
        start = piece.start
        for part in parts:
            end = start + (piece.end - piece.start) * len(part) / letters
            found.append((start, end, part))
            start = end
    return found


def as_srt(transcript: Transcript) -> str:
    """A transcript as SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n"
        f"{textwrap.fill(text, LINE)}\n\n"
        for number, (start, end, text) in enumerate(cues(transcript), 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """A transcript as WebVTT subtitles, where &, < and > stand for tags."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n"
        f"{textwrap.fill(html.escape(text, quote=False), LINE)}\n\n"
        for start, end, text in cues(transcript)
    )


def as_txt(transcript: Transcript) -> str:
    """A transcript's text on a line."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """A transcript with its pieces as JSON."""
    content = transcript.as_dict()
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


FORMATS = {"txt": as_txt, "json": as_json, "srt": as_srt, "vtt": as_vtt}


def _clock(seconds, point):
    """Hours, minutes, seconds and thousandths, as subtitles have them."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
    )
