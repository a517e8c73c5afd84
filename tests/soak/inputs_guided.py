"""Coverage-guided bytes for three readers, where atheris is installed.

``pip install atheris`` (CPython up to 3.13). Of each reader's branches those
that bytes reached steer the next bytes; counted apart from the grammar's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from types import FunctionType

import torch
from safetensors.torch import save

from soak.campaign import Outcome
from speechbrain_ext.data.own_forms import read_table
from speechbrain_ext.layers.converting import read_head
from speechllm.exported.format import FORMAT, ExportFolder, file_hash

RUNS = 100_000
# Longest input, in bytes.
LONGEST = 4096


def heads(path):
    """The head of a safetensors file."""
    read_head(str(path))


def manifests(path):
    """An export's manifest, and each file that it names."""
    ExportFolder(str(path.parent))


def lists(path):
    """A list of recordings."""
    read_table(str(path), str(path.parent), "csv")


def head_seeds(folder):
    """A sound file of two tensors."""
    tensors = {"a": torch.zeros(2), "b": torch.ones(1, 2, dtype=torch.int8)}
    return [save(tensors, {"format": "pt"})]


def manifest_seeds(folder):
    """The manifest of a folder that it fits."""
    files = {
        "README.md": "# A card",
        "config.json": json.dumps(
            {
                "format": FORMAT,
                "backbone": {"kept_layers": [0]},
                "tasks": ["asr"],
                "default_task": "asr",
            }
        ),
        "tasks/asr/task.json": "{}",
    }
    named = {}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        named[name] = {"bytes": len(text), "sha256": file_hash(path)}
    return [json.dumps({"format": FORMAT, "files": named}).encode()]


def list_seeds(folder):
    """A list of two recordings, and one with quotes and times."""
    return [
        b"audio\ttext\na.wav\tone two\nb.wav\tthree\n",
        b'id,audio,start,end,text\n1,a.wav,0,1.5,"one, two"\n',
    ]


READERS = {
    "heads": (heads, "a.safetensors", head_seeds),
    "manifests": (manifests, "manifest.json", manifest_seeds),
    "lists": (lists, "list.tsv", list_seeds),
}
# Whose functions are traced.
MODULES = (
    "speechbrain_ext.layers.converting",
    "speechbrain_ext.layers.weights",
    "speechllm.exported.format",
    "speechbrain_ext.data.own_forms",
)


def functions_of(module):
    """A module's own functions and methods."""
    for one in vars(module).values():
        if getattr(one, "__module__", None) == module.__name__:
            inside = vars(one).values() if isinstance(one, type) else [one]
            yield from (f for f in inside if isinstance(f, FunctionType))


def guided(setting):
    """A reader's cases; none where atheris is not there, or in haste."""
    there = importlib.util.find_spec("atheris")
    if setting.quick or not there:
        return
    for name in READERS:
        if not setting.wants(f"guided: {name}"):
            continue
        folder = setting.folder / f"guided-{name}"
        folder.mkdir()
        tried, wrong = fuzzed(name, folder, setting)
        for number in range(tried):
            yield Outcome(f"guided: {name}", str(number))
        if wrong or tried < RUNS:
            yield Outcome(
                f"guided: {name}", "last", wrong or f"ended at {tried}"
            )


def fuzzed(name, folder, setting):
    """How many inputs a reader met in a child, and what was wrong with one."""
    child = os.fork()
    if not child:
        _fuzz(name, folder, setting)
    os.waitpid(child, 0)
    counted, fault = folder / "count", folder / "fault"
    tried = int(counted.read_text()) if counted.exists() else 0
    return tried, fault.read_text() if fault.exists() else ""


def _fuzz(name, folder, setting):
    """Never returns: atheris ends the process."""
    import atheris

    read, file, made = READERS[name]
    path, seeds = folder / "in" / file, folder / "seeds"
    path.parent.mkdir()
    seeds.mkdir()
    for number, first in enumerate(made(path.parent)):
        (seeds / str(number)).write_bytes(first)
    tried = 0

    def once(given):
        nonlocal tried
        tried += 1
        path.write_bytes(given)
        try:
            read(path)
        except (ValueError, OSError) as error:
            if str(path.parent) not in str(error):
                _end(folder, tried, given, f"names no file: {error!r}")
        except BaseException:
            _end(folder, tried, given, traceback.format_exc())
        if tried == RUNS:
            _end(folder, tried, b"", "")

    seed = setting.random(f"guided {name}").randrange(1, 2**31)
    words = [sys.argv[0], f"-seed={seed}", f"-max_len={LONGEST}", str(seeds)]
    words += [
        "-rss_limit_mb=4096",
        "-timeout=10",
        f"-artifact_prefix={folder}/",
    ]
    os.chdir(folder)
    null = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # What is loaded already cannot be traced by the package's import hook.
    for module in {read.__module__, *MODULES}:
        for one in functions_of(sys.modules[module]):
            atheris.instrument_func(one)
    atheris.Setup(words, once)
    atheris.Fuzz()
    os._exit(1)


def _end(folder, tried, given, wrong):
    """Note what came of it and leave."""
    (folder / "count").write_text(str(tried))
    if wrong:
        told = f"{given!r:.2000}: {wrong[-2000:]}"
        (folder / "fault").write_text(told)
    os._exit(0)
