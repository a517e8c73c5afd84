"""Parquet files as strangers write them: any types, flipped bytes."""

from __future__ import annotations

import io
import pickle

import pyarrow as pa
import pyarrow.parquet as pq

from soak.recordings_cells import sound

TEXTS = ("a cat", "", None, "$5", "\0", "\x1b[2J", "x" * 200_000, "a\nb")
NAMES = ("a", "b", "", None, "../up", "a b", "é")
SECONDS = (0.2, 0.2, 0.0, -1.0, float("nan"), float("inf"), 1e300, None)


class Canary:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (exec, ("open('canary', 'w').close()",))


def contents(random):
    """What the column of recordings may hold."""
    whole = sound("WAV")
    return random.choice(
        (
            whole,
            whole,
            whole,
            None,
            b"",
            whole[: random.randrange(len(whole))],
            b"<html>",
            sound("mp3"),
        )
    )


def write_parquet(random, file) -> None:
    """A file of some rows; some of other types, some with bytes changed."""
    many = random.choice((0, 1, 2, 3, 5))

    def some(pool):
        return [
            pool[0] if random.random() < 0.8 else random.choice(pool)
            for _ in range(many)
        ]

    wavs = [{"bytes": contents(random), "path": None} for _ in range(many)]
    columns = {
        "ID": pa.array(
            [n or f"u{i}" for i, n in enumerate(some(("", *NAMES)))],
            pa.string(),
        ),
        "duration": pa.array(some(SECONDS), pa.float64()),
        "wav": pa.array(
            wavs, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        ),
        "spk_id": pa.array(some(("s1", *NAMES)), pa.string()),
        "text": pa.array(some(TEXTS), pa.string()),
    }
    if random.random() < 0.4:
        other_type(random, columns, many)
    table = pa.table(columns)
    if random.random() < 0.1:
        table = with_canary(table)
    target = io.BytesIO()
    pq.write_table(
        table,
        target,
        row_group_size=random.choice((1, 2, 100)),
        compression=random.choice(("none", "snappy", "zstd", "gzip")),
    )
    file.write_bytes(changed(random, target.getvalue()))


def other_type(random, columns, many) -> None:
    """Make one column something else, or take it away."""
    name = random.choice(list(columns))
    ways = (
        pa.array([7] * many, pa.int64()),
        pa.array([True] * many, pa.bool_()),
        pa.array([["a"]] * many, pa.list_(pa.string())),
        pa.array([b"\xff\xfe"] * many, pa.binary()),
        pa.array([{"x": 1}] * many, pa.struct([("x", pa.int64())])),
        pa.array(["0.2"] * many, pa.string()),
        pa.array([None] * many, pa.null()),
        pa.array([10**15] * many, pa.timestamp("ns")),
        pa.array([sound("WAV")] * many, pa.binary()),
        pa.array(
            [{"bytes": "text"}] * many, pa.struct([("bytes", pa.string())])
        ),
        None,
    )
    chosen = random.choice(ways)
    if chosen is None:
        del columns[name]
    else:
        columns[name] = chosen


def with_canary(table):
    """The same, with a type that older Arrow unpickled."""
    field = table.schema.field(0).with_metadata(
        {
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Canary(), 0),
        }
    )
    return table.cast(table.schema.set(0, field))


def changed(random, content: bytes) -> bytes:
    """Bytes cut or flipped; a Parquet file's head is at its end."""
    way = random.random()
    if way < 0.6:
        return content
    if way < 0.65:
        return content[: random.randrange(len(content))]
    content = bytearray(content)
    most = random.choice((len(content), 600))
    for _ in range(random.choice((1, 2, 8))):
        place = len(content) - 1 - random.randrange(min(most, len(content)))
        content[place] ^= 1 << random.randrange(8)
    return bytes(content)
