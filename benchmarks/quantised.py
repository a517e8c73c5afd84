"""What 8-bit weights cost in word errors: the same recordings, both ways.

    python -m benchmarks.quantised MODEL... --set FOLDER --utterances 100

MODELs are exports, FOLDER is a set in LibriSpeech's form. Speakers take turns,
so that a few utterances are of many of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np

from speechbrain_ext.runs.files import write_json
from speechbrain_ext.scores.intervals import (
    group_sums,
    sign_permutation,
    wer_from_sums,
)
from speechbrain_ext.scores.words import word_errors
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.multitask import memory_of
from speechllm.quiet import quiet_libraries
from speechllm.report.tables import markdown_table

TYPES = (None, "int8")


def read_set(folder: str, count: int) -> list[dict]:
    """Recordings and their texts, a speaker after the other."""
    speakers: dict[str, list[dict]] = {}
    for file in sorted(Path(folder).rglob("*.trans.txt")):
        for line in file.read_text("utf-8").splitlines():
            name, text = line.split(" ", 1)
            row = {"id": name, "wav": str(file.parent / f"{name}.flac")}
            row |= {"text": text.lower(), "speaker": name.split("-")[0]}
            speakers.setdefault(row["speaker"], []).append(row)
    if not speakers:
        raise FileNotFoundError(f"{folder}: no *.trans.txt below this folder")
    turns = itertools.zip_longest(*speakers.values())
    rows = [row for turn in turns for row in turn if row]
    return rows[:count]


def scored(source: str, dtype: str | None, rows: list[dict]) -> dict:
    """Errors and words of each recording, by a model of a type."""
    model = ExportedSpeechLLM.from_pretrained(source, dtype=dtype, device="cpu")
    said = model.transcribe([row["wav"] for row in rows], batch_size=16)
    counted = [
        word_errors(row["text"], one.text) for row, one in zip(rows, said)
    ]
    return {
        "texts": [one.text for one in said],
        "counts": [[one.errors, one.words] for one in counted],
        "bytes": memory_of(model.tasks)["backbone"],
        "seconds": sum(one.seconds for one in said),
    }


def compare(source: str, rows: list[dict]) -> dict:
    """A model as it is and in 8 bits, on the same recordings."""
    usual, small = (scored(source, dtype, rows) for dtype in TYPES)
    speakers = [row["speaker"] for row in rows]
    first_GK, _ = group_sums(usual["counts"], speakers)
    second_GK, _ = group_sums(small["counts"], speakers)

    def rate(sums_GK):
        return float(wer_from_sums(np.sum(sums_GK, axis=0)[None])[0])

    other = sum(a != b for a, b in zip(usual["texts"], small["texts"]))
    return {
        "model": os.path.basename(os.path.normpath(source)),
        "utterances": len(rows),
        "speakers": len(first_GK),
        "words": int(first_GK[:, 1].sum()),
        "wer": rate(first_GK),
        "wer_int8": rate(second_GK),
        "p_value": sign_permutation(first_GK, second_GK, wer_from_sums),
        "other_texts": other,
        "llm_bytes": usual["bytes"],
        "llm_bytes_int8": small["bytes"],
    }


def table(found: list[dict]) -> str:
    """The comparisons as a Markdown table."""
    header = "model,WER,WER int8,p,other texts,LLM MiB,LLM MiB int8".split(",")
    return markdown_table(
        header,
        [
            [
                one["model"],
                f"{one['wer']:.2f}",
                f"{one['wer_int8']:.2f}",
                f"{one['p_value']:.2f}",
                f"{one['other_texts']} of {one['utterances']}",
                f"{one['llm_bytes'] / 2**20:.2f}",
                f"{one['llm_bytes_int8'] / 2**20:.2f}",
            ]
            for one in found
        ],
    )


def figures(file: str | Path) -> dict[str, str]:
    """The table of what was measured, as a page has it, by its name."""
    return {"int8": table(json.loads(Path(file).read_text())["quantised"])}


def main(argv: list[str] | None = None) -> None:
    """Compare each model, write the figures, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--set", required=True, dest="folder")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--output", help="a JSON file with all figures")
    options = parser.parse_args(argv)
    quiet_libraries()
    rows = read_set(options.folder, options.utterances)
    found = [compare(model, rows) for model in options.models]
    if options.output:
        write_json(options.output, {"quantised": found})
    print(table(found))


if __name__ == "__main__":
    main()
