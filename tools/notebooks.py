"""Run the tutorials: ``python tools/notebooks.py`` writes what they print.

With ``--check`` it says which print other lines than they have in them, where
they have any.

A cell is run as it stands, all cells of a notebook in one namespace, and all
notebooks in one folder, in their order: the third goes on from the second.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

# What SpeechBrain's loggers say of a run; it is not the same everywhere.
LOGGED = re.compile(r"^(?:[\w.]+ - |\* ).*\n", re.M)
TUTORIALS = Path(__file__).resolve().parents[1] / "docs/tutorials"


def notebooks() -> list[Path]:
    """The tutorials in their order."""
    return sorted(TUTORIALS.glob("*.ipynb"))


def opened(path: Path) -> tuple[dict, list[dict]]:
    """A notebook, and those of its cells that are code."""
    content = json.loads(path.read_text("utf-8"))
    return content, [c for c in content["cells"] if c["cell_type"] == "code"]


def run(path: Path) -> list[str]:
    """Run a notebook's code in this folder; what each of its cells printed."""
    space: dict = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(opened(path)[1], 1):
        code = compile("".join(cell["source"]), f"{path}:{number}", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as told:
            exec(code, space)
        found.append(LOGGED.sub("", told.getvalue()))
    return found


def printed(path: Path) -> list[str]:
    """What each cell of a notebook printed when it was written."""
    return [
        "".join(text for one in cell["outputs"] for text in one["text"])
        for cell in opened(path)[1]
    ]


def write(path: Path, told: list[str]) -> None:
    """Put into a notebook what its cells printed."""
    content, code = opened(path)
    for number, (cell, text) in enumerate(zip(code, told, strict=True), 1):
        lines = text.splitlines(keepends=True)
        stream = {"name": "stdout", "output_type": "stream", "text": lines}
        cell |= {"outputs": [stream] * bool(text), "execution_count": number}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8")


def main(check: bool) -> int:
    """Run all; write what they print, or say whose prints have other lines."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    start, differ = os.getcwd(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for notebook in notebooks():
            told = run(notebook)
            # Figures may move with a library: their places may not.
            lines = [text.count("\n") for text in told]
            before = [text.count("\n") for text in printed(notebook)]
            if any(before) and lines != before:
                differ.append(notebook.name)
            if not check:
                write(notebook, told)
        os.chdir(start)
    if check and differ:
        print(f"{', '.join(differ)}: run python tools/notebooks.py")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
