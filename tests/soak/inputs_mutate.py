"""Files spoiled by a grammar: JSON trees, YAML, weights' heads, any bytes.

Each function takes what is sound and a source of numbers, and gives it
spoiled in one way; none looks at a reader's code.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from pathlib import Path

# What code that must not run would do; the watch sees it try.
COMMAND = "date"
DEEP = 100_000
HUGE = 10**9
ODD = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, HUGE, 10**30, -HUGE),
    *(0.5, -0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf")),
    *("", " ", "1", "nan", "x" * 1000, "\x00", "\x1b[2J", "\u202eü", "\ud800"),
    *("../escaped", "/escaped", "a/../../escaped", "C:\\escaped", "~/escaped"),
    *([], {}, [[]], [None], {"": None}, [[1]], ["x", 1], {"a": {"b": []}}),
]
CODE = ["auto_map", "trust_remote_code", "custom_generate", "__class__"]
TAGS = [
    f"!apply:os.system [{COMMAND}]",
    f"!new:os.popen [{COMMAND}]",
    f"!!python/object/apply:os.system [{COMMAND}]",
    f"!!python/object/new:subprocess.Popen [[{COMMAND}]]",
    f"!!python/object/apply:builtins.exec ['import os; os.system(\"{COMMAND}\")']",
    "!!python/name:os.system",
    f"!applyref:os.system [{COMMAND}]",
    "!name:os.system",
    "!module:os",
    "!include:../escaped.yaml",
    "!include:/escaped.yaml",
]
ODD_YAML = [
    *("", "~", "{}", "[]", "[", "{a", "&a 1", "*a", "<<: *a", "? x", "- 1"),
    *("1e999", ".nan", "-.inf", "0x1F", "1_000", "2020-01-01", "1:30", "yes"),
    *("!foo 1", "!!binary x", "!!set {a}", "!!timestamp x", "!ref <nowhere>"),
    *("!ref <steps>", "!copy <steps>", "!tuple (1, 2)", "!PLACEHOLDER"),
    *("!new:nowhere.Nothing", "!name:os.nothing", "(1, 2)", "'(1, 2)'"),
    *('"\\x00"', '"\\ud800"', "|\n  x", ">-\n\n", "%TAG", "@x", "`x`", "\t1"),
    *("9" * 5000, "[" * 500, "{a: " * 500, "x" * 3000, "!ref <a> * <b>"),
]


class Canary:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.system, (COMMAND,)


def spoil(path: Path, random) -> str:
    """Spoil one file in place; says how."""
    if random.random() < 0.08:
        return _place(path, random)
    raw = path.read_bytes()
    ways = {".json": json_file, ".jsonl": json_lines, ".yaml": yaml_file}
    ways[".safetensors"] = weights_file
    way = ways.get(path.suffix)
    if way is None or random.random() < 0.3:
        way = any_bytes
    told, new = way(raw, random)
    path.write_bytes(new)
    return told


def _place(path, random):
    """Something else in a file's place."""
    way = random.choice("absent folder dangling loop out".split())
    raw = path.read_bytes()
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "dangling":
        path.symlink_to("nowhere")
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "out":
        outside = Path.cwd() / f"outside-{path.name}"
        outside.write_bytes(raw)
        path.symlink_to(outside)
    return way


# ----------------------------------------------------------------------------
# Any bytes.


def any_bytes(raw: bytes, random) -> tuple[str, bytes]:
    """Bytes as disks, editors and downloads spoil them, or a stranger."""
    place = random.randrange(len(raw) + 1)
    lines = raw.split(b"\n")
    line = random.randrange(len(lines))
    flipped = bytearray(raw)
    for _ in range(random.randint(1, 8) if raw else 0):
        flipped[random.randrange(len(raw))] ^= 1 << random.randrange(8)
    text = raw.decode("utf-8", "replace")
    ways = {
        "cut": raw[:place],
        "empty": b"",
        "bits flipped": bytes(flipped),
        "bytes exchanged": raw[:place] + random.randbytes(4) + raw[place + 4 :],
        "NUL": raw[:place] + b"\x00" + raw[place:],
        "no UTF-8": raw[:place] + b"\xff\xfe\x80" + raw[place:],
        "zeros": b"\x00" * len(raw),
        "BOM": b"\xef\xbb\xbf" + raw,
        "CRLF": raw.replace(b"\n", b"\r\n"),
        "CR": raw.replace(b"\n", b"\r"),
        "UTF-16": text.encode("utf-16"),
        "twice": raw + raw,
        "a line twice": b"\n".join([*lines[:line], *lines[line - 1 :]]),
        "a line less": b"\n".join(lines[:line] + lines[line + 1 :]),
        "lines mixed": b"\n".join(random.sample(lines, len(lines))),
        "more after it": raw + b"\nx",
        "pickle": pickle.dumps(Canary()),
        "a page": b"<!DOCTYPE html><html>Not found</html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "deep": b"[" * DEEP,
        "deep keys": b'{"a":' * DEEP,
        "a megabyte": b"x" * 2**20,
        "spaces": b" " * 2**20,
    }
    way = random.choice(list(ways))
    return way, ways[way]


# ----------------------------------------------------------------------------
# JSON.


def json_file(raw: bytes, random) -> tuple[str, bytes]:
    """A JSON file, one value of its tree changed."""
    content = json.loads(raw)
    told, content = tree(content, random)
    text = json.dumps(content)
    if random.random() < 0.1:
        how = random.choice(["1e999", "9" * 5000, "NaN", "-Infinity", "01"])
        numbers = [w for w in text.split() if w.strip(",]}").isdecimal()]
        if numbers:
            text = text.replace(f" {random.choice(numbers)}", f" {how},", 1)
            told = f"a number as {how:.10}"
    return told, text.encode("utf-8", "surrogatepass")


def json_lines(raw: bytes, random) -> tuple[str, bytes]:
    """A file of a JSON value a line, one of them changed."""
    lines = raw.rstrip(b"\n").split(b"\n")
    place = random.randrange(len(lines))
    told, lines[place] = json_file(lines[place], random)
    return f"line {place + 1}: {told}", b"\n".join(lines) + b"\n"


def tree(content, random, deep: int = 400) -> tuple[str, object]:
    """A tree of plain values, changed at one place."""
    content = copy.deepcopy(content)
    places = list(_places((), content))
    if not places:
        return "another root", random.choice(ODD)
    path = random.choice(places)
    *above, key = path
    parent = content
    for part in above:
        parent = parent[part]
    value = parent[key]
    told = "/".join(map(str, path))[:60]
    way = random.choice(
        "set set set set drop retitle wrap more swap deep code root".split()
    )
    if way == "set":
        parent[key] = random.choice(ODD)
        return f"{told} is {parent[key]!r:.30}", content
    if way == "root":
        content = random.choice([[content], [], {}, None, "x", 1, True])
    elif way == "drop":
        del parent[key]
    elif way == "retitle" and isinstance(parent, dict):
        parent[random.choice(["", "x", key.upper(), "../x"])] = parent.pop(key)
    elif way == "wrap":
        parent[key] = random.choice([[value], {"x": value}, str(value)])
    elif way == "more":
        _add(parent, value, random)
    elif way == "swap":
        *there, last = random.choice(places)
        other = content
        for part in there:
            other = other[part]
        parent[key] = copy.deepcopy(other[last])
    elif way == "deep":
        for _ in range(random.choice([3, deep])):
            value = [value]
        parent[key] = value
    elif isinstance(parent, dict):
        parent[random.choice(CODE)] = {"AutoModel": "evil.Model"}
    return f"{told}: {way}", content


def _add(parent, value, random):
    """More of the same in a list, an unknown key in a mapping."""
    if isinstance(parent, list):
        parent.extend([value] * random.choice([1, 1000]))
    else:
        parent["unknown"] = value


def _places(path, node):
    """Every path below the root of a tree."""
    pairs = ()
    if isinstance(node, dict):
        pairs = node.items()
    elif isinstance(node, list):
        # Not a thousand numbers of a table, each as likely as a key.
        pairs = list(enumerate(node))[:4]
    for key, value in pairs:
        yield (*path, key)
        yield from _places((*path, key), value)


# ----------------------------------------------------------------------------
# YAML, by its lines: what a parser would refuse is wanted too.


def yaml_file(raw: bytes, random, code: bool = True) -> tuple[str, bytes]:
    """A YAML file, one line of it changed; `code`: also to tags that call."""
    lines = raw.decode().split("\n")
    keys = [n for n, one in enumerate(lines) if ":" in one.split("#")[0]]
    place = random.choice(keys)
    key, _, value = lines[place].partition(":")
    way = random.choice("value value value code key indent twice".split())
    if way == "code" and not code:
        way = "value"
    if way == "code" and random.random() < 0.2:
        # The whole file.
        tag = random.choice(TAGS).split()[0]
        told = f"command: {COMMAND}\nargs: [{COMMAND}]\n"
        return f"root: {tag}", f"{tag}\n{told}".encode()
    if way in ("value", "code"):
        value = random.choice(TAGS if way == "code" else ODD_YAML)
        lines[place] = f"{key}: {value}"
        return f"{key.strip()}: {value:.30}", "\n".join(lines).encode()
    if way == "key":
        new = random.choice(["", "x", "1", "null", "[a]", "a.b", "'", "__x"])
        lines[place] = f"{new}:{value}"
    elif way == "indent":
        lines[place] = random.choice(["  ", "\t", "- ", "    "]) + lines[place]
    else:
        lines.insert(place, lines[place])
    return f"line {place + 1}: {way}", "\n".join(lines).encode()


# ----------------------------------------------------------------------------
# Weights: the head of a safetensors file says where each tensor lies.


def weights_file(raw: bytes, random) -> tuple[str, bytes]:
    """A safetensors file with another head, or another length of it."""
    length = int.from_bytes(raw[:8], "little")
    head, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    way = random.choice(
        "length tree offsets shape type twice meta tail".split()
    )
    if way == "length":
        length = random.choice([0, 1, length - 1, length + 1, 2**62, 2**64 - 1])
        return f"head of {length}", length.to_bytes(8, "little") + raw[8:]
    names = [name for name in head if name != "__metadata__"]
    name = random.choice(names)
    entry = head[name] = copy.deepcopy(head[name])
    if way == "tree":
        told, head = tree(head, random)
    elif way == "offsets":
        other = head[random.choice(names)]["data_offsets"]
        end = len(data)
        entry["data_offsets"] = random.choice(
            [other, [0, end], [end, 0], [-8, 8], [0, 2**62], [end, end + 8], []]
        )
    elif way == "shape":
        entry["shape"] = random.choice(
            [[], [-1], [0], [2**62], [2**32, 2**32], [1.5], ["4"], [1] * 2000]
        )
    elif way == "type":
        types = "F64 F16 BF16 I8 BOOL F8_E4M3 F4 X".split()
        entry["dtype"] = random.choice([*types, None, 1])
    elif way == "meta":
        head["__metadata__"] = random.choice(ODD)
    text = json.dumps(head)
    if way == "twice":
        text = text.replace("{", "{" + f'"{name}": {json.dumps(entry)}, ', 1)
    elif way == "tail":
        data = data[: random.randrange(len(data))]
    told = f"{name}: {way}" if way != "tree" else told
    packed = text.encode("utf-8", "surrogatepass")
    return told, len(packed).to_bytes(8, "little") + packed + data


def put_back(path: Path, raw: bytes) -> None:
    """A file as it was, whatever is in its place now."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(raw)
