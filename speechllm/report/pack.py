"""A study's results in one small file that can be committed, and back.

``python -m speechllm.report.pack RESULTS --output FILE``
``python -m speechllm.report.pack FILE --unpack FOLDER``

The file is JSON, compressed by bzip2: every run's result, answers, losses and
tables of distances, all to the last digit. What repeats from run to run
(references, speakers, most answers) stands in it once. Places on the machine
that made it are cut to their last part, and equal results give equal bytes.
"""

from __future__ import annotations

import argparse
import bz2
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from speechbrain_ext.runs.files import (
    LOSSES_FILE,
    atomic_write,
    plain,
    write_text,
)
from speechbrain_ext.runs.result import RESULT_FILE

FORMAT = "speechllm.results/1"
PLAN = "plan.json"
# In a run's folder, and beside the runs.
OF_A_RUN = (RESULT_FILE, "redundancy-*.json", "plan-*.json")
OF_UTTERANCES = ("hypotheses-*.jsonl", LOSSES_FILE)
OF_A_STUDY = ("timings/*.json", "multitask/multitask.json", "whisper.json")
# A whole text that is a place, or such a place within a text.
PLACE = re.compile(r"(?:~?/|[A-Za-z]:[\\/])[^\n]*")
PLACES = re.compile(
    r"(?<![\w.:/~\\-])(?:~?(?:/[\w.@+~-]+){2,}|[A-Za-z]:(?:\\[\w.@+~-]+)+)"
)
# Counting starts at "0", so that few values give readable digits.
FIRST = ord("0")


def runs_folder(results: Path) -> Path:
    """Where the runs of a study are: below ``runs``, or right there."""
    return results / "runs" if (results / "runs").is_dir() else results


def pack(results: Path, output: Path) -> int:
    """Write a study's results into one file.

    Arguments
    ---------
    results : Path
        The study's folder, or any with runs in it.
    output : Path
        The file; it appears when it is whole.

    Returns
    -------
    int
        How many runs are in it.

    Raises
    ------
    FileNotFoundError
        If there is no result.
    ValueError
        If a file is not whole: names it.
    """
    folders = sorted(
        path.parent for path in runs_folder(results).rglob(RESULT_FILE)
    )
    if not folders:
        raise FileNotFoundError(
            f"{results}: no {RESULT_FILE} in it or below; name the folder of "
            "a study"
        )
    contents = {
        _name(path, results): without_places(_read_json(path))
        for path in [
            *_matching(folders, OF_A_RUN),
            *_matching([results], OF_A_STUDY),
        ]
    }
    if (results / PLAN).is_file():
        contents |= _plan(results)
    utterances = {
        _name(path, results): path.read_text(encoding="utf-8")
        for path in _matching(folders, OF_UTTERANCES)
    }
    packed = {"format": FORMAT, "json": contents, **_utterances(utterances)}
    text = json.dumps(packed, ensure_ascii=False, separators=(",", ":"))
    with atomic_write(output, "wb") as stream:
        stream.write(bz2.compress(text.encode()))
    return len(folders)


def unpack(packed: Path, folder: Path) -> None:
    """Write a study's results as they were, but for places on a machine.

    Arguments
    ---------
    packed : Path
        What `pack` wrote.
    folder : Path
        Where to; made where it is missing.

    Raises
    ------
    ValueError
        If it is no such file, or names files outside the folder.
    """
    try:
        content = json.loads(bz2.decompress(packed.read_bytes()))
        known = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{packed}: no packed results ({error})") from error
    if not known:
        raise ValueError(
            f"{packed}: its format is {content['format']!r}, not {FORMAT!r}; "
            "pack the results again"
        )
    for name, text in _texts(content):
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or re.search(r"[\\:]", name):
            raise ValueError(f"{packed}: {name!r} is outside of the folder")
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def _matching(folders: Iterable[Path], patterns) -> Iterator[Path]:
    for folder in folders:
        for pattern in patterns:
            yield from sorted(folder.glob(pattern))


def _name(path, results):
    return path.relative_to(results).as_posix()


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: not whole JSON ({error}); run it again or remove it"
        ) from error


def _plan(results) -> dict:
    """What a report asks of a plan: names, and how what is missing ended."""
    plan = _read_json(results / PLAN)
    runs = [
        {k: one[k] for k in ("name", "kind", "made")} for one in plan["runs"]
    ]
    found = {
        PLAN: {**{k: plan.get(k) for k in ("report", "flat")}, "runs": runs}
    }
    for one in runs:
        marker = f"graph/{one['kind']}/{one['name']}.{one['made']}.json"
        result = runs_folder(results) / one["name"] / RESULT_FILE
        if not result.is_file() and (results / marker).is_file():
            found[marker] = without_places(_read_json(results / marker))
    return found


def without_places(value):
    """A JSON value whose absolute paths are cut to their last part.

    >>> without_places({"baseline": "/home/jo/results/mini", "prompt": "a/b"})
    {'baseline': 'mini', 'prompt': 'a/b'}
    """
    if isinstance(value, dict):
        return {k: without_places(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(v) for v in value]
    if not isinstance(value, str):
        return value
    if PLACE.fullmatch(value) and ": " not in value:
        return _last(value)
    return PLACES.sub(lambda match: _last(match[0]), value)


def _last(place):
    parts = [part for part in re.split(r"[\\/]", place) if part]
    return parts[-1] if parts else place


# ----------------------------------------------------------------------------
# Files with a row an utterance: what is the same in all runs stands once, and
# the rest utterance by utterance, its different values once.


def _utterances(texts: dict[str, str]) -> dict:
    """Files of the same utterances as groups; odd ones as they are."""
    groups: dict[tuple, dict] = {}
    odd = {}
    for name in sorted(texts, key=lambda n: (n.rpartition("/")[2], n)):
        rows = [json.loads(r) for r in texts[name].split("\n") if r]
        keys = {tuple(row) for row in rows}
        if len(keys) != 1 or _lines(rows) != texts[name]:
            odd[name] = texts[name]
            continue
        ids = tuple(row.get("id") for row in rows)
        of = name.rpartition("/")[2], keys.pop(), ids
        groups.setdefault(of, {})[name] = rows
    return {
        "groups": [
            _packed(list(keys), files) for (_, keys, _), files in groups.items()
        ],
        "odd": odd,
    }


def _lines(rows):
    """As `speechbrain_ext.runs.files` writes them."""
    lines = [json.dumps(plain(row), ensure_ascii=False) for row in rows]
    return "".join(line + "\n" for line in lines)


def _packed(keys, files: dict[str, list[dict]]) -> dict:
    columns = {
        k: [[r[k] for r in rows] for rows in files.values()] for k in keys
    }
    same = {k: c[0] for k, c in columns.items() if _alike(c)}
    floats = {
        key: _hex(column)
        for key, column in columns.items()
        if key not in same
        and all(type(value) is float for rows in column for value in rows)
    }
    told = {"keys": keys, "files": list(files), "same": same, "floats": floats}
    if own := [key for key in keys if key not in same | floats]:
        told |= _answers({key: columns[key] for key in own})
    return told


def _alike(column):
    # As JSON: 1, 1.0 and true are equal, and are not the same.
    return len({json.dumps(rows) for rows in column}) == 1


def _answers(columns: dict[str, list]) -> dict:
    """The different answers to each utterance, and which of them is whose."""
    # [files, utterances] of answers, each in all of its columns.
    answers = [list(zip(*of_file)) for of_file in zip(*columns.values())]
    values: dict[str, list] = {key: [] for key in columns}
    marks = []
    for of_utterance in zip(*answers):
        places: dict[str, int] = {}
        for answer in of_utterance:
            if (text := json.dumps(answer)) not in places:
                places[text] = len(places)
                for key, value in zip(columns, answer):
                    values[key].append(value)
        which = [places[json.dumps(answer)] for answer in of_utterance]
        marks.append("".join(chr(FIRST + place) for place in which))
    return {"own": values, "whose": marks}


def _own(told) -> dict[str, list]:
    """The columns that `_answers` packed, ``[files, utterances]`` each."""
    whose = [[ord(m) - FIRST for m in marks] for marks in told["whose"]]
    starts = np.cumsum([0, *(1 + max(marks) for marks in whose)])[:-1]
    places = [[s + m for m in marks] for s, marks in zip(starts, whose)]
    return {
        key: [[values[p] for p in of_file] for of_file in zip(*places)]
        for key, values in told["own"].items()
    }


def _hex(column):
    """Floats to the last bit, their first bytes first, then the second ones."""
    values = np.array(column, dtype=">f8")
    return values.view(np.uint8).reshape(-1, 8).T.tobytes().hex()


def _floats(text, files):
    planes = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(8, -1)
    values = np.ascontiguousarray(planes.T).view(">f8")
    return values.reshape(files, -1).tolist()


def _texts(content) -> Iterator[tuple[str, str]]:
    """Names and texts of all files."""
    for name, value in content["json"].items():
        yield name, json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    yield from content["odd"].items()
    for told in content["groups"]:
        many = len(told["files"])
        columns = {k: [v] * many for k, v in told["same"].items()}
        columns |= {k: _floats(v, many) for k, v in told["floats"].items()}
        columns |= _own(told) if "own" in told else {}
        for place, name in enumerate(told["files"]):
            rows = zip(*(columns[key][place] for key in told["keys"]))
            yield name, _lines(dict(zip(told["keys"], row)) for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Pack a study, or unpack one."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.report.pack",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("results", type=Path, help="a study, or a packed one")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--output", type=Path, help="the file to pack it into")
    how.add_argument("--unpack", type=Path, help="the folder to unpack it to")
    options = parser.parse_args(argv)
    try:
        if options.unpack:
            unpack(options.results, options.unpack)
            return 0
        runs = pack(options.results, options.output)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    size = options.output.stat().st_size
    print(f"wrote {options.output}: {runs} runs, {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
