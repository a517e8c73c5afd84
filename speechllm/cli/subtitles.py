"""Transcripts as text, JSON, subtitles (srt, vtt), tables (tsv) and ctm."""

from __future__ import annotations

import html
import json
import os
import textwrap
from collections.abc import Callable
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


# ----------------------------------------------------------------------------
# Forms with a row for each of some things, of one recording or of many.

NO_WORD_TIMES = (
    ";; times of words are not measured: a piece's time, shared by letters"
)


def jsonl_rows(transcripts: list[Transcript]) -> list[str]:
    """A recording a row, as JSON."""
    return [json.dumps(t.as_dict(), ensure_ascii=False) for t in transcripts]


def tsv_rows(transcripts: list[Transcript]) -> list[str]:
    """A piece a row: recording, start and end in seconds, text."""
    rows = [
        (one.name, f"{piece.start:.3f}", f"{piece.end:.3f}", piece.text)
        for one in transcripts
        for piece in one.pieces
        if piece.text
    ]
    told = ("\t".join(" ".join(cell.split()) for cell in row) for row in rows)
    return ["name\tstart\tend\ttext", *told]


def ctm_rows(transcripts: list[Transcript]) -> list[str]:
    """A word a row, as NIST's scoring tools read it: time and length."""
    rows = [NO_WORD_TIMES]
    for one in transcripts:
        name = "_".join(os.path.splitext(os.path.basename(one.name))[0].split())
        for piece in one.pieces:
            words = piece.text.split()
            letters = sum(map(len, words))
            start = piece.start
            for word in words:
                length = (piece.end - piece.start) * len(word) / letters
                rows.append(f"{name} A {start:.2f} {length:.2f} {word}")
                start += length
    return rows


Rows = Callable[[list["Transcript"]], list[str]]
ROWS: dict[str, Rows] = {"jsonl": jsonl_rows, "tsv": tsv_rows, "ctm": ctm_rows}


def _one(rows: Rows) -> Callable[[Transcript], str]:
    """Such a form for one recording."""
    return lambda transcript: "\n".join(rows([transcript])) + "\n"


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_txt,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
    **{name: _one(rows) for name, rows in ROWS.items()},
}


def _clock(seconds, point):
    """Hours, minutes, seconds and thousandths, as subtitles have them."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
    )
