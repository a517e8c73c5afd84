"""Transcripts as text, JSON, subtitles (srt, vtt), tables (tsv) and ctm."""

from __future__ import annotations

import functools
import html
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechllm.exported.transcribe import Piece, Transcript

# Characters of a subtitle: two lines of 42, as is usual.
LONGEST = 84
LINE = 42


def timed(piece: Piece, parts: list[str]) -> Iterator[tuple[float, float, str]]:
    """Start, length and text of a piece's parts, by their letters."""
    letters, start = sum(map(len, parts)), piece.start
    for part in parts:
        length = (piece.end - piece.start) * len(part) / letters
        yield start, length, part
        start += length


def cues(
    transcript: Transcript, point: str, spell: Callable[[str], str] = str
) -> list[str]:
    """Subtitles of a transcript, each with its times."""
    return [
        f"{_clock(start, point)} --> {_clock(start + length, point)}\n"
        f"{textwrap.fill(spell(text), LINE)}\n\n"
        for piece in transcript.pieces
        for start, length, text in timed(
            piece, textwrap.wrap(piece.text, LONGEST)
        )
    ]


def as_srt(transcript: Transcript) -> str:
    """A transcript as SubRip subtitles."""
    several = enumerate(cues(transcript, ","), 1)
    return "".join(f"{number}\n{cue}" for number, cue in several)


def as_vtt(transcript: Transcript) -> str:
    """A transcript as WebVTT subtitles, where &, < and > stand for tags."""
    spell = functools.partial(html.escape, quote=False)
    return "WEBVTT\n\n" + "".join(cues(transcript, ".", spell))


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
        rows += [
            f"{name} A {start:.2f} {length:.2f} {word}"
            for piece in one.pieces
            for start, length, word in timed(piece, piece.text.split())
        ]
    return rows


Rows = Callable[[list["Transcript"]], list[str]]
ROWS: dict[str, Rows] = {"jsonl": jsonl_rows, "tsv": tsv_rows, "ctm": ctm_rows}


def _one(rows: Rows) -> Callable[[Transcript], str]:
    """Such a form for one recording."""
    return lambda transcript: "\n".join(rows([transcript])) + "\n"


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": lambda transcript: transcript.text + "\n",
    "json": lambda transcript: (
        json.dumps(transcript.as_dict(), indent=2, ensure_ascii=False) + "\n"
    ),
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
