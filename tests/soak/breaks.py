"""``python tests/soak/breaks.py``: the product broken on purpose, and caught.

Each break is made in a fresh copy of the tree, in which the campaign then
runs the faults that must find it, at their quick size. 1 where one is not
caught, 2 where the text that a break changes is there no more. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = ".*", "results", "site", "docs", "*.pyc", "__pycache__"
WRONG = re.compile(r"WRONG (?P<family>\w+), (?P<told>.*)")
# Letters of a campaign's words that the page has.
TOLD = 160


@dataclass(frozen=True)
class Break:
    """What is changed in a file, and which kinds of faults must find it."""

    name: str
    file: str
    # Pairs of text before and after.
    edits: tuple[tuple[str, str], ...]
    family: str
    kinds: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Change a copy of the tree."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        for before, after in self.edits:
            if text.count(before) != 1:
                raise ValueError(
                    f"{self.file}: holds {before.strip()!r} "
                    f"{text.count(before)} times, not once, so that "
                    f"{self.name!r} cannot be tried: correct tests/soak/breaks.py"
                )
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")


FILES = "speechbrain_ext/runs/files.py"
BREAKS = (
    Break(
        "an atomic write made plain",
        FILES,
        (
            (
                "            with open(temporary, mode, **how) as stream:\n"
                "                until_named.enter_context(held(temporary))\n",
                "            with open(path, mode, **how) as stream:\n",
            ),
            ("            os.replace(temporary, path)\n", ""),
        ),
        "power",
        ("JSON, again",),
    ),
    Break(
        "a file renamed before it is on the disk",
        FILES,
        (
            (
                "                os.fsync(stream.fileno())\n"
                "            os.replace(temporary, path)\n",
                "            os.replace(temporary, path)\n",
            ),
        ),
        "power",
        ("a text",),
    ),
    Break(
        "a folder renamed before it is on the disk",
        "speechbrain_ext/runs/folders.py",
        (("                sync(unfinished)\n", ""),),
        "power",
        ("a folder", "a folder, again"),
    ),
    Break(
        "a hash check removed: an export's files",
        "speechllm/exported/format.py",
        (
            (
                'if verify and file_hash(path) != entry["sha256"]:',
                "if False:",
            ),
        ),
        "inputs",
        ("downloads",),
    ),
    Break(
        "a lock removed: a run's folder",
        "speechbrain_ext/runs/folders.py",
        (("            _wait(stream, folder, patience)\n", ""),),
        "disks",
        ("two at once, one stuck: training",),
    ),
    Break(
        "a checkpoint loaded as a pickle that may call",
        "speechbrain_ext/training/checkpoints.py",
        (
            (
                'torch.load(path, map_location="cpu", weights_only=True)',
                'torch.load(path, map_location="cpu", weights_only=False)',
            ),
        ),
        "inputs",
        ("pickles",),
    ),
    Break(
        "YAML tags that call let through",
        "speechllm/settings_tree.py",
        (
            ('        if "python/" in tag_of(node):\n', "        if False:\n"),
            (
                "        if not TAGS.fullmatch(tag_of(node)):\n",
                "        if False:\n",
            ),
        ),
        "inputs",
        ("fragments",),
    ),
    Break(
        "names in a packed study not looked at",
        "speechllm/report/pack.py",
        (
            (
                '            raise ValueError(f"{name!r:.80} is outside of the folder")\n',
                "            pass\n",
            ),
        ),
        "inputs",
        ("packed",),
    ),
    Break(
        "a pipe opened like a recording",
        "speechbrain_ext/data/audio_file.py",
        (("    if not os.path.isfile(path):\n", "    if False:\n"),),
        "recordings",
        ("no recording",),
    ),
    Break(
        "padding attended to by the encoder",
        "speechbrain_ext/model/encoder_cores.py",
        (("        if padded:\n", "        if False:\n"),),
        "numbers_kept",
        ("a batch of any size, order and padding: float32",),
    ),
    Break(
        "a NaN decoded like a score",
        "speechbrain_ext/model/decoding.py",
        (
            (
                "return token_B.where(best_B[:, 0].isfinite(), NO_NUMBER)",
                "return token_B",
            ),
        ),
        "numbers_kept",
        ("decoding: one utterance's features", "decoding: a layer's output"),
    ),
)


def caught(one: Break, top: Path) -> str:
    """What the campaign says first of a broken copy; empty: nothing."""
    root = top / "tree"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*NOT_COPIED))
    one.apply(root)
    scratch = top / "scratch"
    scratch.mkdir()
    words = [sys.executable, str(root / "tests/soak"), "--workers", "1"]
    words += ["--only", one.family, "--kinds", *one.kinds]
    places = {"PYTHONPATH": str(root), "TMPDIR": str(scratch)}
    # Its first word is enough: it and its children are ended then.
    with subprocess.Popen(
        words,
        cwd=root,
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as campaign:
        said = []
        for line in campaign.stdout:
            said.append(line)
            if found := WRONG.match(line):
                os.killpg(campaign.pid, signal.SIGKILL)
                return _short(found["told"], top)
    if campaign.returncode:
        raise RuntimeError(f"{one.name}: {''.join(said)[-3000:]}")
    return ""


def _short(told, top):
    """Its words without the folders of this machine, on one line."""
    told = re.sub(rf"{re.escape(str(top))}[^\s:,']*/", "", told)
    return f"{told[:TOLD]}..." if len(told) > TOLD else told


def main(argv=None) -> int:
    """Try the breaks; say of each whether it was caught, and by what."""
    parser = argparse.ArgumentParser(
        prog="python tests/soak/breaks.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="in a name")
    parser.add_argument("--output", type=Path, help="a JSON file")
    typed = parser.parse_args(argv)
    words = typed.only or [""]
    chosen = [one for one in BREAKS if any(word in one.name for word in words)]
    rows = {}
    for one in chosen:
        with tempfile.TemporaryDirectory(prefix="soak-break-") as top:
            try:
                told = caught(one, Path(top))
            except ValueError as error:
                parser.error(str(error))
        print(f"{'caught' if told else 'NOT caught'}: {one.name}", flush=True)
        print(f"  {one.family}: {told}" if told else f"  {one.family}")
        row = {"break": one.name, "family": one.family, "told": told}
        rows[one.name] = row
    if typed.output:
        save(typed.output, rows)
    return 0 if all(row["told"] for row in rows.values()) else 1


def save(file: Path, rows: dict[str, dict]) -> None:
    """Write what was said of the breaks; of those not tried now it stays."""
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))["breaks"]
        rows = {row["break"]: row for row in before} | rows
    known = [rows[one.name] for one in BREAKS if one.name in rows]
    text = json.dumps({"breaks": known}, indent=2) + "\n"
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
