"""Recordings and their text in the forms that people keep them in.

- kaldi: a folder with ``wav.scp`` and ``text``, and where they are there
  ``segments``, ``utt2spk`` and ``translation`` (like ``text``)
- nemo: JSON lines with audio_filepath, text; offset and duration of a part
- audiofolder: a folder with Hugging Face's ``metadata.csv`` or ``.jsonl``
- csv: a CSV or TSV; what its columns may be called stands in `COLUMNS`

Nothing that these files name is ever run, and no audio is opened here. What an
utterance's row holds: wrd, spk_id, translation, split, and ``wav``, as manifests
write it, with ``file``, where that is. ``part`` is the seconds of its file that
an utterance takes, from and to (None: the end).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator

from speechbrain.utils.logger import get_logger

from speechbrain_ext.data.manifests import (
    PreparationError,
    Utterance,
    holds,
    read_text,
)

logger = get_logger(__name__)
# What it may be called, the first that a row has.
COLUMNS = {
    "audio": ("audio_filepath", "file_name", "path", "wav", "audio", "file"),
    "wrd": ("text", "transcript", "transcription", "sentence", "wrd"),
    "spk_id": ("speaker", "spk_id", "speaker_id", "client_id"),
    "translation": ("translation",),
    "start": ("start", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "split": ("split",),
    "id": ("id", "utt_id"),
}
ALIASES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
ENDINGS = {".jsonl": "nemo", ".json": "nemo", ".csv": "csv", ".tsv": "csv"}
METADATA = ("metadata.csv", "metadata.jsonl")
# More seconds than any recording has.
ENDLESS = 1e9


def form_of(place: str) -> str | None:
    """The form of a file or folder, by looking; None: none of them."""
    if os.path.isfile(place):
        if os.path.basename(place) in METADATA:
            return "audiofolder"
        return ENDINGS.get(os.path.splitext(place)[1].lower())
    for name, form in (
        ("wav.scp", "kaldi"),
        *((name, "audiofolder") for name in METADATA),
    ):
        if os.path.isfile(os.path.join(place, name)):
            return form
    tables = tables_in(place)
    return form_of(os.path.join(place, tables[0])) if len(tables) == 1 else None


def tables_in(folder: str) -> list[str]:
    """Names of the tables in a folder (list)."""
    if not os.path.isdir(folder):
        return []
    names = sorted(os.listdir(folder))
    return [n for n in names if os.path.splitext(n)[1].lower() in ENDINGS]


def read_data(
    place: str, root: str, form: str | None, name: str
) -> tuple[list[Utterance], list[str]]:
    """Read a split's folder or table.

    Arguments
    ---------
    place : str
        The folder or file.
    root : str
        The data folder; audio is also looked for from there.
    form : str or None
        kaldi, nemo, audiofolder or csv; None: found by looking.
    name : str
        The split, for messages.

    Returns
    -------
    utterances : list of Utterance
        Those that cannot be used marked.
    files : list of str
        What they were read from.

    Raises
    ------
    PreparationError
        None of the forms, or a file that cannot be read as one.
    """
    found = form or form_of(place)
    if found is None:
        several = "several tables, " * (len(tables_in(place)) > 1)
        raise PreparationError(
            f"{name}: {place} holds {several}none of the four forms "
            f"({holds(place)}): wanted is a wav.scp beside a text (kaldi), one "
            ".jsonl (nemo), a metadata.csv (audiofolder) or one .csv; name "
            f"the file itself with --{name}_data FILE"
        )
    why = "as format: says" if form else "by its looks"
    logger.info(f"{name}: {place} is read as {found}, {why}")
    utterances, files = read_form(place, root, found, name)
    tell_outside(utterances, root, name)
    return utterances, files


def tell_outside(utterances, root, name):
    """Say which recordings a list, maybe a stranger's, takes from elsewhere.

    Absolute paths are usual in Kaldi's and NeMo's lists: no refusal.
    """
    files = [one.row["file"] for one in utterances if "file" in one.row]
    outside = [file for file in files if not file.startswith(root + os.sep)]
    if outside:
        logger.warning(
            f"{name}: {len(outside)} of {len(files)} recordings lie outside "
            f"{root}, such as {outside[0]}: leave out their lines if you did "
            "not expect that"
        )


def read_form(place, root, found, name):
    """What `read_data` gives, of a known form."""
    if found == "kaldi":
        return read_kaldi(place, root)
    if os.path.isdir(place):
        named = METADATA if found == "audiofolder" else tables_in(place)
        files = [os.path.join(place, n) for n in named]
        files = [file for file in files if os.path.isfile(file)]
        if len(files) != 1:
            raise PreparationError(
                f"{name}: {place} has {len(files)} tables for format: {found} "
                f"({holds(place)}): name one with --{name}_data FILE"
            )
        place = files[0]
    return read_table(place, root, found), [place]


# ----------------------------------------------------------------------------
# Kaldi's folders.


def read_kaldi(folder: str, root: str) -> tuple[list[Utterance], list[str]]:
    """Utterances of a Kaldi data folder, and its files."""
    names = ("wav.scp", "text", "segments", "utt2spk", "translation")
    files = {name: os.path.join(folder, name) for name in names}
    for name in names[:2]:
        if not os.path.isfile(files[name]):
            raise PreparationError(
                f"{folder}: no {name} ({holds(folder)}): a Kaldi data folder "
                "has wav.scp and text: write both, or set format"
            )
    there = {n: keyed(f) if os.path.isfile(f) else {} for n, f in files.items()}
    cut = "segments" if os.path.isfile(files["segments"]) else "wav.scp"
    units, texts = there[cut], there["text"]
    utterances = []
    for name in sorted({*units, *texts}):
        place, text = texts[name] if name in texts else units[name]
        one = Utterance(name, place)
        one.row = {
            "spk_id": there["utt2spk"].get(name, ("", ""))[1],
            "wrd": text if name in texts else "",
            "translation": there["translation"].get(name, ("", ""))[1],
        }
        utterances.append(one)
        if name not in units:
            one.refuse("transcript without audio", f"it is not in {cut}")
        elif name not in texts:
            one.refuse("audio without transcript", "it is not in text")
        elif cut == "segments":
            add_segment(one, units[name], there["wav.scp"], folder, root)
        else:
            add_recording(one, units[name], folder, root)
    return utterances, [f for f in files.values() if os.path.isfile(f)]


def keyed(file: str) -> dict[str, tuple[str, str]]:
    """Lines ``KEY REST`` of a file: key to place and rest (dict)."""
    found: dict[str, tuple[str, str]] = {}
    twice = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        key, *rest = line.strip().split(maxsplit=1) or [""]
        place = f"{os.path.basename(file)}, line {number}"
        if key in found:
            twice.append(f"{key} ({found[key][0]}, and line {number})")
        elif key:
            found[key] = place, " ".join("".join(rest).split())
    if twice:
        raise PreparationError(
            f"{file}: {len(twice)} keys stand there twice, as "
            f"{', '.join(twice[:5])}: leave one line of each"
        )
    return found


def add_segment(one, unit, recordings, folder, root):
    """Note the part of a recording that a line of ``segments`` names."""
    one.place, said = unit
    recording, *times = said.split() or [""]
    if len(times) < 2:
        one.refuse("no segment", f"{said!r}: write RECORDING START END")
    elif recording not in recordings:
        one.refuse("segment without recording", f"{recording} not in wav.scp")
    else:
        # -1 is the recording's end.
        end = times[1] if not times[1].startswith("-1") else ""
        add_recording(one, recordings[recording], folder, root)
        add_part(one, times[0], end)


def add_recording(one, unit, folder, root):
    """Note an utterance's file; what would have to be run is refused."""
    place, said = unit
    if said.startswith("|") or said.endswith("|"):
        why = f"{said!r} is not run: write its output to a file and name that"
        one.refuse("a command, no file", why)
    else:
        add_audio(one, said, folder, root)
    if one.fault:
        one.place = place


# ----------------------------------------------------------------------------
# Tables: CSV, TSV and JSON lines.


def read_table(file: str, root: str, form: str) -> list[Utterance]:
    """Utterances of a table."""
    is_json = os.path.splitext(file)[1].lower() in (".json", ".jsonl")
    read = json_rows if is_json else csv_rows
    utterances = []
    for number, cells in read(file):
        place = f"{os.path.basename(file)}, line {number}"
        one = Utterance(place, place)
        utterances.append(one)
        if isinstance(cells, str):
            one.refuse("unreadable line", cells)
        else:
            fill(one, cells, os.path.dirname(file), root, form)
    if not utterances:
        raise PreparationError(
            f"{file}: holds no utterance: write a line for each"
        )
    return utterances


def csv_rows(file: str) -> Iterator[tuple[int, dict | str]]:
    """Line number and cells (dict), or what is wrong with them, of a CSV."""
    text = read_text(file)
    head = text.partition("\n")[0]
    comma = max(",\t;", key=head.count)
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=comma, strict=True
    )
    try:
        header = [cell.strip().lower() for cell in next(lines, [])]
        for what in ("audio", "wrd"):
            if what == "wrd" and "translation" in header:
                continue
            if not {*COLUMNS[what]} & {*header}:
                raise PreparationError(
                    f"{file}: no column for the {what.replace('wrd', 'text')} "
                    f"(there is {', '.join(header) or 'nothing'}): call it "
                    f"one of {', '.join(COLUMNS[what])}"
                )
        for cells in lines:
            if len(cells) == len(header):
                yield lines.line_num, dict(zip(header, cells))
            elif "".join(cells).strip():
                why = f"{len(cells)} columns, the head has {len(header)}"
                yield lines.line_num, f"{why} (quote a text with a {comma!r})"
    except csv.Error as error:
        raise PreparationError(
            f"{file}, line {lines.line_num}: no CSV ({error}): check the "
            "quotes there and before"
        ) from error


def json_rows(file: str) -> Iterator[tuple[int, dict | str]]:
    """Line number and cells (dict), or what is wrong with them, of JSON lines."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
            if not isinstance(cells, dict):
                cells = f"a {type(cells).__name__}: write one object a line"
        # Brackets in brackets without end are a RecursionError.
        except (ValueError, RecursionError) as error:
            cells = f"no JSON ({error}): write one object a line"
        yield number, cells


def fill(one, cells, folder, root, form):
    """Note what a table's row says of an utterance."""
    cells = {str(k).lower(): v for k, v in cells.items() if v is not None}

    def said(what):
        """The row's text under the first name that it has."""
        values = (cells[name] for name in COLUMNS[what] if name in cells)
        value = next(values, "")
        if isinstance(value, (dict, list)):
            is_a = f"{what} is a {type(value).__name__}"
            one.refuse("no text", f"{is_a}: write text or a number")
            return ""
        return " ".join(str(value).split())

    path, name = said("audio"), said("split").lower()
    if not name and form == "audiofolder":
        # Hugging Face tells the sets apart by folders.
        top = path.split("/")[0]
        name = top if any(top in names for names in ALIASES.values()) else ""
    one.row = {key: said(key) for key in ("spk_id", "wrd", "translation")}
    one.row["split"] = name
    if not path:
        named = ", ".join(COLUMNS["audio"])
        one.refuse("no audio named", f"give one of {named}")
        return
    add_audio(one, path, folder, root)
    file = os.path.relpath(one.row.get("file", path), root)
    file = os.path.abspath(path) if file.startswith("..") else file
    one.name = said("id") or os.path.splitext(file)[0]
    start, end, seconds = said("start"), said("end"), said("duration")
    # A duration alone is the file's own, in NeMo's manifests and others.
    if start or end:
        one.name += "" if said("id") else f"@{start or 0}"
        add_part(one, start or "0", end, seconds)


def add_part(one, start, end="", seconds=""):
    """Note which seconds of its file an utterance is."""
    try:
        first, last = float(start), float(end) if end else None
        if last is None and seconds:
            last = first + float(seconds)
    except ValueError as error:
        one.refuse("no number of seconds", str(error))
        return
    if not 0 <= first < (ENDLESS if last is None else last) <= ENDLESS:
        told = f"from {start} to {'its end' if last is None else last} s"
        one.refuse("empty part", f"{told}: give a start before the end")
    one.row["part"] = first, last


def add_audio(one, path, folder, root):
    """Note the file: beside its table, in a folder above, or from here on."""
    places = [folder]
    while places[-1] != root and places[-1].startswith(root + os.sep):
        places.append(os.path.dirname(places[-1]))
    places += [root, os.getcwd()]
    files = [os.path.abspath(os.path.join(p, path)) for p in places]
    file = next((f for f in files if os.path.isfile(f)), None)
    if file is None:
        looked = " or ".join(dict.fromkeys(map(os.path.dirname, files)))
        one.refuse("absent audio", f"{path}: no such file (in {looked})")
        return
    inside = file.startswith(root + os.sep)
    wav = f"$data_root/{os.path.relpath(file, root)}" if inside else file
    one.row.update(file=file, wav=wav)
