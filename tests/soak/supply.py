"""What this software stands on, what it fetches, and what it leaves behind.

No network is needed. ``pip-audit``, which asks a database of weaknesses, is
run in a full campaign where it is installed and its database answers; where it
is not, nothing is counted for it.
"""

import ast
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from huggingface_hub import constants
from packaging.requirements import Requirement

from soak.campaign import Outcome

ROOT = Path(__file__).resolve().parents[2]
CODE = "speechbrain_ext speechllm recipes workflow tools benchmarks upstream"
# Terms that ask for nothing but their own text; the rest is on the page.
FREE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|CC0|"
    r"MIT-CMU|MIT-0|HPND|CNRI-Python|Unlicense)\b",
    re.IGNORECASE,
)
BOUND = re.compile(
    r"GPL|General Public|MPL|Mozilla|EPL|CDDL|Proprietary|AGPL|NonCommercial",
    re.IGNORECASE,
)
PAGE = ROOT / "docs/licences.md"
AUDIT_SECONDS = 120


def faults(setting):
    """Packages, downloads, temporary files; then what is written, and how."""
    from soak import supply_written

    yield from weaknesses(setting)
    yield from licences()
    yield from installed(setting)
    yield from calls()
    yield from temporary_files()
    yield from supply_written.faults(setting)


# ----------------------------------------------------------------------------
# Packages.


def needed():
    """Installed packages that any of our requirements leads to, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = list(project["dependencies"])
    for more in project["optional-dependencies"].values():
        waiting += more
    found, seen = {}, set()
    while waiting:
        one = Requirement(waiting.pop())
        key = re.sub(r"[-_.]+", "-", one.name).lower(), *sorted(one.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            package = metadata.distribution(one.name)
        except metadata.PackageNotFoundError:
            continue
        found[key[0]] = package
        for text in package.requires or []:
            marker = Requirement(text).marker
            extras = [{"extra": extra} for extra in ("", *one.extras)]
            if marker is None or any(map(marker.evaluate, extras)):
                waiting.append(text)
    return dict(sorted(found.items()))


def weaknesses(setting):
    """What pip-audit knows of the installed packages, where it can be had."""
    try:
        if setting.quick:
            raise OSError("a quick campaign asks no network")
        metadata.version("pip-audit")
        told = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--format", "json"],
            capture_output=True,
            timeout=AUDIT_SECONDS,
            text=True,
        )
        packages = json.loads(told.stdout)["dependencies"]
    except Exception as error:  # no tool, no network, no answer in time
        print(f"supply: pip-audit: not tried ({type(error).__name__}: {error})")
        return
    yield from audited(packages)


def audited(packages):
    """What is known of each; nothing is said of what could not be asked."""
    unasked = [one for one in packages if one.get("skip_reason")]
    if unasked:
        many, why = len(unasked), unasked[0]["skip_reason"]
        print(f"supply: pip-audit: {many} packages not tried ({why}, ...)")
    for one in packages:
        if one not in unasked:
            bad = ", ".join(fault["id"] for fault in one["vulns"])
            yield Outcome("known weaknesses (pip-audit)", one["name"], bad)


def licence_of(package):
    """What a package says of its licence, or what the head of its file says."""
    head = package.metadata
    classes = head.get_all("Classifier") or []
    told = [
        head.get("License-Expression") or "",
        (head.get("License") or "").strip().split("\n")[0],
        *(one for one in classes if one.startswith("License")),
    ]
    for file in package.files or []:
        if not any(told) and re.search("licen[sc]e|copying", file.name, re.I):
            text = file.locate().read_text("utf-8", "ignore")
            told.append(text.strip()[:200])
    return " ".join(filter(None, told))


def on_page():
    """Packages that the page names, and how it calls their licence (dict)."""
    rows = re.findall(
        r"^\| `([\w.*-]+)` \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return {name: licence.strip() for name, licence in rows}


def licences():
    """Free licences, or named on the page as what they say they are."""
    page = on_page()
    for name, package in needed().items():
        yield Outcome("a package's licence", name, bound(name, package, page))


def bound(name, package, page):
    """What is wrong with a package's licence; empty where nothing is."""
    told = licence_of(package)
    if FREE.search(told) and not BOUND.search(told):
        return ""
    keys = [key for key in page if re.fullmatch(key.replace("*", ".*"), name)]
    if not keys:
        return f"{told or 'names no licence'}: not on {PAGE.name}"
    said = page[keys[0]]
    words = re.findall(r"[A-Za-z]{3,}", said)
    if told and not any(word.lower() in told.lower() for word in words):
        return f"{told}, but {PAGE.name} says {said}"
    return ""


def installed(setting):
    """Files of packages have the hashes that came with them, a sample each."""
    dice = setting.random("hashes")
    for name, package in needed().items():
        # Commands get the head of the Python that they are installed for.
        files = [
            one
            for one in package.files or []
            if one.hash and "bin" not in one.parts
        ]
        small = [one for one in files if (one.size or 0) < 1 << 20]
        some = dice.sample(small, min(len(small), setting.many(3, 200)))
        bad = [str(file) for file in some if not is_whole(file)]
        yield Outcome(
            "a package's files and their hashes", name, str(bad or "")
        )


def is_whole(file):
    """Whether a file has the hash that its package's record says."""
    try:
        found = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
    except FileNotFoundError:
        return False
    text = base64.urlsafe_b64encode(found).decode().rstrip("=")
    return text == file.hash.value


# ----------------------------------------------------------------------------
# How it is fetched, and where what is not whole yet is put.

FETCHING = "from_pretrained cached_file snapshot_download hf_hub_download"
# What is read there lies in a folder that the same code has just looked at.
LOCAL = {
    "benchmarks/loading.py",
    "benchmarks/quantised.py",
    "benchmarks/streaming.py",
    "recipes/OwnData/ASR/SpeechLLM/whisper_wer.py",
    "speechbrain_ext/healing/lora.py",
    "speechllm/cli/audio.py",  # ID@REVISION
    "speechllm/demo/systems.py",  # ID@REVISION
    "speechllm/export/gguf_file.py",
    "speechllm/export/verify.py",
    "speechllm/exported/model.py",
    "speechllm/registered.py",
    "speechllm/saved.py",
    "speechllm/streamed/parts.py",
}


def sources():
    """Each file of ours, and what stands in it."""
    for top in CODE.split():
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT)
            if "results" not in parts.parts:
                yield parts.as_posix(), ast.parse(path.read_text("utf-8"))


def called(tree):
    """Each call in a tree: its line, its full name, its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keys = {key.arg for key in node.keywords}
            yield node, ast.unparse(node.func), keys


def calls():
    """Whatever is fetched is fetched by revision."""
    for file, tree in sources():
        for node, name, keys in called(tree):
            if name.rpartition(".")[2] not in FETCHING.split():
                continue
            free = "revision" in keys or None in keys or file in LOCAL
            # A positional one: (source, removed, dtype, device, revision).
            free = free or len(node.args) > 3
            wrong = "" if free else "takes no revision"
            which = f"{file}, line {node.lineno}"
            yield Outcome("a download by revision", which, wrong)


def temporary_files():
    """No temporary file has a name that another user can know before."""
    for file, tree in sources():
        wrong = []
        for node, name, _ in called(tree):
            if re.search(r"\b(mktemp|tempnam|tmpnam)$", name):
                wrong.append(f"line {node.lineno}: {name}")
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else ""
            if isinstance(text, str) and re.match(r"/(var/)?tmp\b", text):
                wrong.append(f"line {node.lineno}: {text}")
        yield Outcome("names of temporary files", file, "; ".join(wrong))


# ----------------------------------------------------------------------------
# A hub's cache on this disk.


class FakeHub:
    """A cache folder as the hub's client leaves one, with several commits."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.before = constants.HF_HUB_CACHE
        constants.HF_HUB_CACHE = str(self.folder)

    def add(self, name, source, commit, branch="main"):
        """A commit of a model, which a branch is then at."""
        top = self.folder / f"models--{name.replace('/', '--')}"
        snapshot = top / "snapshots" / commit
        for each in (top / "blobs", top / "refs", snapshot):
            each.mkdir(parents=True, exist_ok=True)
        for file in Path(source).iterdir():
            content = file.read_bytes()
            large = file.suffix == ".safetensors"
            blob = f"blob {len(content)}\0".encode() + content
            name = (
                hashlib.sha256(content) if large else hashlib.sha1(blob)
            ).hexdigest()
            (top / "blobs" / name).write_bytes(content)
            os.symlink(f"../../blobs/{name}", snapshot / file.name)
        (top / "refs" / branch).write_text(commit)

    def close(self):
        """Let the client look where it looked before."""
        constants.HF_HUB_CACHE = self.before
