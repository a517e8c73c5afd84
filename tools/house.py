"""Counts that keep the house small: `python tools/house.py`, and a test.

Lines, docstrings, the two paths that a reader follows, and the one place that
each idea has. The aim is 28,000 lines outside tests, and was not reached: audio
of any kind, checkpoints as they come and fingerprints brought 4,000 lines while
the house was rebuilt; intervals over speakers, verdicts that can fail, timings
and `make recheck` 3,600 more, models larger than memory 2,000, own data 900,
steps without waits 700; speech LLMs of the hub 2,600, command line, wheel, pages,
browser page and GGUF 3,700, the study of real models 700, what a campaign of
faults found 1,700, batches without padding and copies that are compared whole 300,
projectors that learn from words alone 150:
20,000 in all, on some 28,000. `MOST_LINES` is what there is: whoever shrinks the
house lowers it, and a later feature may raise it in its own commit, with the reason.
Directions, paths and ratios stay.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from upstream.sources import imported_names  # noqa: E402

AIM = 28_000
MOST_LINES = 48_600
MOST_DOCSTRINGS = {"core": 0.6, "tools": 0.25}
RECIPE = "recipes/LibriSpeech/ASR/SpeechLLM/train.py"
CORE = "speechbrain_ext"

# What one reads in ten minutes, top down, to know how a run works.
TEN_MINUTES = [
    RECIPE,
    f"{CORE}/training/experiment.py",
    f"{CORE}/training/brain.py",
    f"{CORE}/model/speech_llm.py",
    f"{CORE}/model/prompt.py",
    f"{CORE}/model/decoder.py",
]
MOST_TEN_MINUTES = 1_700

# From `prune_layers: 8` to result.json: each imported by one before it.
PRUNE_LAYERS = [
    RECIPE,
    f"{CORE}/training/settings.py",
    f"{CORE}/training/experiment.py",
    f"{CORE}/training/choose_layers.py",
    f"{CORE}/layers/distances.py",
    f"{CORE}/layers/removal.py",
    f"{CORE}/training/build.py",
    f"{CORE}/model/decoder.py",
    f"{CORE}/layers/surgery.py",
    f"{CORE}/healing/apply.py",
    f"{CORE}/healing/presets.py",
    f"{CORE}/healing/lora.py",
    f"{CORE}/training/brain.py",
    f"{CORE}/runs/result.py",
    f"{CORE}/runs/files.py",
]
MOST_PRUNE_LAYERS = 15

# A pattern of source that stands in one file alone.
ONE_PLACE = {
    "target loss": r"cross_entropy\(",
    "hook on the residual stream": r"register_forward_(pre_)?hook\(",
    "Student's interval": r"stats\.t\.ppf\(",
    "atomic write": r"os\.replace\(",
    "Markdown table": r"\| ?--",
}


def sources() -> dict[str, str]:
    """Every Python file of the repository but tests and links."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return {
        name: (ROOT / name).read_text("utf-8")
        for name in listed
        if not name.startswith("tests/")
        and (ROOT / name).is_file()
        and not (ROOT / name).is_symlink()
    }


def count(text: str) -> tuple[int, int, int]:
    """Lines in all, of code, and of docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        holds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, holds) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings.update(range(first.lineno, first.end_lineno + 1))
    lines = text.splitlines()
    code = sum(
        1
        for number, line in enumerate(lines, 1)
        if line.strip()
        and not line.strip().startswith("#")
        and number not in docstrings
    )
    return len(lines), code, len(docstrings)


def ratios(files: dict[str, str]) -> dict[str, float]:
    """Docstring lines over code lines, of the core and of the tools."""
    sums = {"core": [0, 0], "tools": [0, 0]}
    for name, text in files.items():
        part = sums["core" if name.startswith(f"{CORE}/") else "tools"]
        _, code, docstrings = count(text)
        part[0] += docstrings
        part[1] += code
    return {name: docs / code for name, (docs, code) in sums.items()}


def module(name: str) -> str:
    """The dotted name of a file."""
    return name.removesuffix(".py").replace("/", ".")


def wrong_ways(files: dict[str, str]) -> list[str]:
    """Files of the core that import the tools, a recipe or a test."""
    outside = {"speechllm", "recipes", "workflow", "benchmarks", "upstream"}
    return [
        f"{name} imports {one}"
        for name, text in files.items()
        if name.startswith(f"{CORE}/")
        for one in sorted({*imported_names(text)})
        if one.split(".")[0] in outside
    ]


def broken_steps(files: dict[str, str], path: list[str]) -> list[str]:
    """Steps of a path that no earlier file of it imports."""
    faults = [f"{name} is not there" for name in path if name not in files]
    seen: set[str] = set()
    for name in path:
        if seen and name in files and module(name) not in seen:
            faults.append(f"nothing before {name} imports it")
        seen |= {*imported_names(files.get(name, ""))}
    return faults


def places(files: dict[str, str]) -> dict[str, list[str]]:
    """Where each idea stands, in the two packages."""
    packages = (f"{CORE}/", "speechllm/")
    return {
        idea: [
            name
            for name, text in sorted(files.items())
            if name.startswith(packages) and re.search(pattern, text)
        ]
        for idea, pattern in ONE_PLACE.items()
    }


def faults() -> list[str]:
    """What does not hold, a line each."""
    files = sources()
    total = sum(count(text)[0] for text in files.values())
    found = wrong_ways(files)
    if total > MOST_LINES:
        found.append(f"{total} lines outside tests, at most {MOST_LINES}")
    for part, ratio in ratios(files).items():
        if ratio > MOST_DOCSTRINGS[part]:
            found.append(
                f"{part}: {ratio:.2f} docstring lines to a line of code, "
                f"at most {MOST_DOCSTRINGS[part]}"
            )
    found += broken_steps(files, TEN_MINUTES[:2])
    found += broken_steps(files, PRUNE_LAYERS)
    length = sum(count(files.get(name, ""))[0] for name in TEN_MINUTES)
    if length > MOST_TEN_MINUTES:
        found.append(
            f"the ten-minute path has {length} lines, at most "
            f"{MOST_TEN_MINUTES}"
        )
    if len(PRUNE_LAYERS) > MOST_PRUNE_LAYERS:
        found.append(f"prune_layers goes through {len(PRUNE_LAYERS)} files")
    found += [
        f"{idea} stands in {len(names)} files: {', '.join(names)}"
        for idea, names in places(files).items()
        if len(names) != 1
    ]
    return found


def main() -> int:
    """Print the counts and what does not hold."""
    files = sources()
    total = sum(count(t)[0] for t in files.values())
    print(f"{total} lines outside tests; the aim: {AIM}")
    for part, ratio in ratios(files).items():
        print(f"{part}: {ratio:.2f} docstring lines to a line of code")
    for title, path in (
        ("ten minutes", TEN_MINUTES),
        ("prune_layers -> result.json", PRUNE_LAYERS),
    ):
        lines = sum(count(files.get(name, ""))[0] for name in path)
        print(f"{title}: {len(path)} files, {lines} lines")
    for line in faults():
        print(f"FAULT: {line}")
    return 1 if faults() else 0


if __name__ == "__main__":
    sys.exit(main())
