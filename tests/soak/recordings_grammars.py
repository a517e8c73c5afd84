"""Lists of recordings by their grammars: each writes a folder.

Sound and senseless cells stand side by side; then bytes are changed here and
there. What is typed for the folder, to the recipe's own script, is given back.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from recipe_scripts import RECIPES

from soak.recordings_cells import (
    NAMES,
    NUMBERS,
    TEXTS,
    as_bytes,
    cell,
    places,
    sound,
)
from soak.recordings_parquet import write_parquet

RECIPE = {
    "covost": str(RECIPES / "CoVoST2/AST/SpeechLLM"),
    "librispeech": str(RECIPES / "LibriSpeech/ASR/SpeechLLM"),
    "parquet": str(RECIPES / "Loquacious/ASR/SpeechLLM"),
}
OWN = str(RECIPES / "OwnData/ASR/SpeechLLM")
for _folder in (*RECIPE.values(), OWN):
    if _folder not in sys.path:
        sys.path.append(_folder)
from covost2_prepare import prepare_covost2  # noqa: E402
from librispeech_prepare import prepare_librispeech  # noqa: E402
from loquacious_prepare import prepare_loquacious  # noqa: E402
from own_prepare import prepare_own  # noqa: E402


def covost(random, folder):
    """A TSV of CoVoST's, and clips."""
    clips = folder / "data/clips"
    clips.mkdir()
    names = [f"common_voice_en_{n}.mp3" for n in range(6)]
    for name in names:
        (clips / name).write_bytes(sound("mp3"))
    os.mkfifo(clips / "pipe.mp3")
    (clips / "folder.mp3").mkdir()
    names += ["common_voice_fr_3.mp3", "pipe.mp3", "folder.mp3"]
    columns = ["path", "sentence", "translation", "client_id"]
    head = list(columns)
    if random.random() < 0.2:
        head = random.choices([*columns, "", "x", "\0"], k=random.randrange(7))
    lines = [head]
    random.shuffle(names)
    for name in names[: random.randrange(8)]:
        cells = [
            cell(random, name, places(folder)),
            cell(random, "A cat.", TEXTS),
            cell(random, "Eine Katze.", TEXTS),
            cell(random, "c1", TEXTS, NAMES),
        ]
        lines.append(random.choices(cells, k=random.choice((4, 4, 4, 4, 3, 5))))
        if len(lines[-1]) == 4:
            lines[-1] = cells
    text = "\n".join("\t".join(cells) for cells in lines)
    table = folder / "data/covost_v2.en_de.dev.tsv"
    table.write_bytes(as_bytes(random, text + random.choice(("", "\n"))))
    flac = str(folder / "out/flac") if random.random() < 0.3 else None
    return lambda **more: prepare_covost2(
        folder / "data",
        str(folder / "out"),
        "en",
        "de",
        ["dev"],
        flac_folder=flac,
        **more,
    )


def librispeech(random, folder):
    """A chapter of LibriSpeech's, its FLAC files and transcripts."""
    chapter = folder / "data/dev/7/9"
    chapter.mkdir(parents=True)
    names = [f"7-9-000{n}" for n in range(3)]
    odd = (b"\xff", b"a\nb", b"7-9-0000 x", b"$data_root", b"-", b"\x1b[2J")
    for name in names:
        (chapter / f"{name}.flac").write_bytes(sound("FLAC"))
    if random.random() < 0.3:
        path = os.fsencode(chapter) + b"/" + random.choice(odd) + b".flac"
        Path(os.fsdecode(path)).write_bytes(sound("FLAC"))
    way = random.random()
    if way < 0.1:
        os.mkfifo(chapter / "7-8.trans.txt")
    elif way < 0.2:
        (chapter / "7-8.trans.txt").symlink_to("/dev/zero")
    elif way < 0.3:
        for link in "ab":
            (chapter / link).symlink_to("..")
    elif way < 0.4:
        (chapter / "7-8.trans.txt").symlink_to("7-8.trans.txt")
    elif way < 0.5:
        (chapter / "7-8.flac").symlink_to("7-8.flac")
    lines = [
        cell(random, name, NAMES, places(folder))
        + cell(random, " ", ("", "\t", "  ", "\u00a0"))
        + cell(random, "A CAT", TEXTS)
        for name in random.choices(names, k=1) + names[1:]
    ]
    text = "\n".join(lines) + "\n"
    (chapter / "7-9.trans.txt").write_bytes(as_bytes(random, text))
    return lambda **more: prepare_librispeech(
        str(folder / "data"), str(folder / "out"), ["dev"], **more
    )


def own(random, folder, form):
    """What is typed for a folder of one's own recordings."""
    split = {"valid": None, "test": None, "seed": 1}
    told = random.choice((form, None))
    if random.random() < 0.1:
        split["test"] = random.choice((1, 0.5, 99))
    given = {}
    if random.random() < 0.03:
        given["train"] = random.choice(("pipe.wav", "loop.wav", "zero.wav"))
    translated = random.random() < 0.1
    return lambda **more: prepare_own(
        str(folder / "data"),
        str(folder / "out"),
        ["train"],
        given,
        split,
        form=told,
        translated=translated,
        mix_channels=True,
        **more,
    )


def kaldi(random, folder):
    """wav.scp, text, and now and then segments, utt2spk, translation."""
    recordings = [f"r{n}" for n in range(6)]
    recordings[-1] = random.choice(NAMES)
    names = [f"u{n}" for n in range(5)] + [random.choice(NAMES)]
    segments = random.random() < 0.5
    files = {
        "wav.scp": [
            f"{r} {cell(random, 'a.wav', places(folder))}" for r in recordings
        ],
        "text": [
            f"{u} {cell(random, 'A CAT', TEXTS)}"
            for u in (names if segments else recordings)
        ],
        "utt2spk": [f"{u} {cell(random, 's1', TEXTS)}" for u in names],
    }
    if segments:
        files["segments"] = [
            f"{u} {cell(random, r, NAMES)} {cell(random, '0.02', NUMBERS)} "
            f"{cell(random, '0.1', NUMBERS)}"
            for u, r in zip(names, recordings)
        ]
    for name, lines in files.items():
        file = folder / "data" / name
        if random.random() < 0.02:
            os.mkfifo(file)
        elif random.random() < 0.97:
            file.write_bytes(as_bytes(random, "\n".join(lines) + "\n"))
    return own(random, folder, "kaldi")


def rows(random, folder):
    """Rows of a table: sound names of columns, and any cell."""
    columns = {
        random.choice(("audio_filepath", "file_name", "path")): "a.wav",
        "text": "a cat",
        random.choice(("speaker", "spk_id")): "s1",
    }
    for name, sound_one in (("offset", "0.02"), ("duration", "0.1")):
        if random.random() < 0.4:
            columns[name] = sound_one
    if random.random() < 0.2:
        columns[random.choice(("split", "translation"))] = "train"
    # Without names of their own, rows of one recording are one too often.
    has_id = random.random() < 0.8
    pools = {"a.wav": places(folder), "0.02": NUMBERS, "0.1": NUMBERS}
    return [
        {
            **{
                key: cell(random, value, pools.get(value, TEXTS))
                for key, value in columns.items()
            },
            **({"id": cell(random, f"u{number}", NAMES)} if has_id else {}),
        }
        for number in range(random.choice((0, 1, 4, 6, 8)))
    ]


JSONS = (
    *("[" * 100_000, "9" * 5000, "null", "[]", "1", '"text"', "{", "{}", "NaN"),
    *('{"audio_filepath": {"a": 1}, "text": []}', '{"text": 1e999}'),
    *('{"audio_filepath": "a.wav", "text": "\\ud800", "offset": []}',),
    *('{"a":' * 5000 + "1" + "}" * 5000, '{"\\ud800": 1}', "\0", "{}" * 9),
)


def nemo(random, folder):
    """JSON lines."""
    lines = [
        json.dumps(one)
        if random.random() < 0.9
        else json.dumps({k: random.choice(([v], 1, v)) for k, v in one.items()})
        for one in rows(random, folder)
    ]
    if random.random() < 0.3:
        lines.insert(random.randrange(len(lines) + 1), random.choice(JSONS))
    name = random.choice(("train.jsonl", "train.json", "all.jsonl"))
    text = "\n".join(lines) + "\n"
    (folder / "data" / name).write_bytes(as_bytes(random, text))
    return own(random, folder, "nemo")


def plain_csv(random, folder, name="all.csv", form="csv"):
    """A CSV, its cells quoted or not."""
    comma = random.choice(",,,\t;")
    table = rows(random, folder)

    def quoted(text):
        way = random.random()
        if way < 0.8 or comma in text:
            return '"' + text.replace('"', '""') + '"'
        return text if way < 0.99 and '"' not in text else f'"{text}'

    lines = [list(table[0])] if table else [["path", "text"]]
    lines += [list(map(quoted, one.values())) for one in table]
    if random.random() < 0.1:
        lines[random.randrange(len(lines))].append(random.choice(TEXTS))
    text = "\n".join(comma.join(cells) for cells in lines) + "\n"
    (folder / "data" / name).write_bytes(as_bytes(random, text))
    return own(random, folder, form)


def audiofolder(random, folder):
    """Hugging Face's metadata.csv or .jsonl."""
    if random.random() < 0.5:
        return plain_csv(random, folder, "metadata.csv", "audiofolder")
    typed_words = nemo(random, folder)
    for file in (folder / "data").glob("*.json*"):
        file.rename(folder / "data/metadata.jsonl")
    return typed_words


def parquet(random, folder):
    """Loquacious' Parquet files."""
    place = folder / "data/small"
    place.mkdir()
    write_parquet(random, place / "a.parquet")
    if random.random() < 0.05:
        random.choice(
            (
                lambda file: os.mkfifo(file),
                lambda file: file.mkdir(),
                lambda file: file.symlink_to(file),
                lambda file: file.symlink_to("/dev/zero"),
            )
        )(place / "b.parquet")
    return lambda **more: prepare_loquacious(
        str(folder / "data"), str(folder / "out"), ["small"], **more
    )


GRAMMARS = {
    "covost": covost,
    "librispeech": librispeech,
    "kaldi": kaldi,
    "nemo": nemo,
    "audiofolder": audiofolder,
    "csv": plain_csv,
    "parquet": parquet,
}
