"""A study's results in one small file that can be committed, and back.

``python -m speechllm.report.pack RESULTS --output FILE``
``python -m speechllm.report.pack FILE --unpack FOLDER``

The file is JSON, compressed by bzip2: every run's result, answers, losses and
tables of distances, all to the last digit. What repeats from run to run
(references, speakers, most answers) stands in it once. Places on the machine
that made it are cut to their last part, and equal results give equal bytes.
"""

from __future__ import annotations

import bz2
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from speechbrain_ext.runs.files import LOSSES_FILE, atomic_write, of_form, plain
from speechbrain_ext.runs.result import RESULT_FILE
from speechllm.pipes import module_parser

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
# Bytes of a packed file's content and of all files in it, and their rows. The
# largest of ours has 4 MiB, 50 MiB and 300,000.
LARGEST, MOST, ROWS = 32 << 20, 256 << 20, 2_000_000


def runs_folder(results: Path) -> Path:
    """Where the runs of a study are: below ``runs``, or right there."""
    return results / "runs" if (results / "runs").is_dir() else results


def pack(results: Path, output: Path) -> int:
    """Write the results of a study, or of any folder, and count its runs."""
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
    """Write a study's results as they were, but for places on a machine."""
    mend = "Pack the results again, or give another file"
    with of_form(packed, ": no packed results", mend):
        content = json.loads(_decompressed(packed))
        if content["format"] != FORMAT:
            raise ValueError(
                f"its format is {content['format']!r:.80}, not {FORMAT!r}"
            )
        texts = _checked(_texts(content))
    # Not before all of it was looked at.
    for name, text in texts.items():
        path = folder.joinpath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as stream:
            stream.write(text)


def _decompressed(packed) -> bytes:
    """What is in a file; a few bytes of bzip2 may stand for gigabytes."""
    try:
        with bz2.open(packed) as stream:
            text = stream.read(LARGEST + 1)
    except (EOFError, OSError) as error:
        raise ValueError(error) from error
    if len(text) > LARGEST:
        raise ValueError(f"it is over {LARGEST >> 20} MiB unpacked")
    return text


def _checked(texts) -> dict[str, bytes]:
    """Texts by their names, none of which leads out of a folder."""
    found: dict[str, bytes] = {}
    total = 0
    for name, text in texts:
        # As a path has them: neither "a//b" nor "./a".
        inside = name == str(PurePosixPath(name)) and name.isprintable()
        parts = name.split("/")
        if (
            not inside
            or {"", ".", ".."} & {*parts}
            or re.search(r"[\\:]", name)
        ):
            raise ValueError(f"{name!r:.80} is outside of the folder")
        found[name] = text.encode()
        total += len(found[name])
        if total > MOST:
            raise ValueError(f"its files are over {MOST >> 20} MiB")
    return found


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
    total = 0
    for told in content["groups"]:
        many = len(told["files"])
        columns = {k: [v] * many for k, v in told["same"].items()}
        columns |= {k: _floats(v, many) for k, v in told["floats"].items()}
        columns |= _own(told) if "own" in told else {}
        total += many * len(columns[told["keys"][0]][0]) if many else 0
        if total > ROWS:
            raise ValueError(f"its files have over {ROWS} rows")
        for place, name in enumerate(told["files"]):
            rows = zip(*(columns[key][place] for key in told["keys"]))
            yield name, _lines(dict(zip(told["keys"], row)) for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Pack a study, or unpack one."""
    parser = module_parser("speechllm.report.pack", __doc__)
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
