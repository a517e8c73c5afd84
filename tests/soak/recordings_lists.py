"""Lists of recordings by their grammars, and what the recipes make of them.

Each case is a folder as a stranger may send it, prepared by a recipe's own
script as typed. Sound and senseless cells stand side by side; then bytes are
changed here and there. Outside of the folder lies a recording that only an
open word may bring in, and a command in a list would leave a file behind.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import sys
import traceback
from pathlib import Path

import soundfile
from encoded import encoded, noise
from recipe_scripts import RECIPES

from soak.recordings_child import typed, unclear
from speechbrain_ext.data.audio import read_place
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.rows import read_manifest

RATE = 16000
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

CANARY = "touch canary"
TEXTS = (
    *("", " ", "$5 a day", '"', '""', '"never closed', "a\tb", "\\", "\0"),
    *("\x1b[2J\x07", "é\u0301", "\u2028two", "\x85", "\x1ctwo", "two\rlines"),
    *("=1+1", "x" * 200_000, "{text}", "%s", "\u202eleft", "\ufeff", "#"),
    *("|", "a|b", "null", "nan", "\ud800"),
)
NUMBERS = (
    *("0", "0.1", "0.05", "-1", "nan", "inf", "-inf", "1e999", "1e-320"),
    *(
        "1e307",
        "0x10",
        "1_000",
        "\u0661",
        "9" * 5000,
        "1,5",
        "",
        " ",
        "x",
        "-0",
        "1e18",
    ),
)
NAMES = ("a", "b-1", "a", "", "é", "a b", "../up", "/etc", "a#0-9", "\0", "-")


def places(folder: Path) -> tuple[str, ...]:
    """What a list may call a recording: those there, and all that is not."""
    inside, outside = str(folder / "data"), str(folder / "secret.wav")
    return (
        *("a.wav", "sub/b.flac", "a.wav", "sub/b.flac", "c#0-9.wav"),
        *(f"{inside}/a.wav", outside, "../secret.wav", "sub/../../secret.wav"),
        *("absent.wav", "folder.wav", "pipe.wav", "loop.wav", "out.wav"),
        *("zero.wav", "text.wav", "", ".", "/", "~/a.wav", "$data_root/a.wav"),
        *("$HOME/a.wav", "file:///etc/passwd", "a.wav\0", "x" * 5000, "a.wav#"),
        *(f"{CANARY} |", f"| {CANARY}", f"{CANARY}|", f"`{CANARY}`"),
        *(f"$({CANARY})", "\ud800.wav", "é.wav", "\x1b[2J", "a.wav:12"),
    )


@functools.cache
def sound(form: str) -> bytes:
    """A short recording."""
    if form == "mp3":
        return encoded("headed.mp3", 0.2)[0]
    target = io.BytesIO()
    soundfile.write(target, noise(0.2, RATE), RATE, format=form)
    return target.getvalue()


def odd_files(data: Path) -> None:
    """Recordings, and things that are called so."""
    (data / "sub").mkdir(parents=True)
    for name in ("a.wav", "c#0-9.wav", "../secret.wav"):
        (data / name).write_bytes(sound("WAV"))
    (data / "sub/b.flac").write_bytes(sound("FLAC"))
    (data / "text.wav").write_text("ID,duration\n")
    (data / "folder.wav").mkdir()
    os.mkfifo(data / "pipe.wav")
    for name, target in (
        ("loop.wav", "loop.wav"),
        ("out.wav", "absent"),
        ("zero.wav", "/dev/zero"),
        ("sub/round", ".."),
    ):
        (data / name).symlink_to(target)


def cell(random, sound_one: str, *pools) -> str:
    """A sound cell, or any of some pools."""
    if random.random() < 0.8:
        return sound_one
    return random.choice(random.choice(pools))


def as_bytes(random, text: str) -> bytes:
    """A list's bytes; some are cut, flipped, or of another encoding."""
    content = text.encode("utf-8", "surrogatepass")
    way = random.random()
    if way < 0.75:
        return content
    if way < 0.8:
        return content[: random.randrange(len(content) + 1)]
    if way < 0.9:
        content = bytearray(content)
        for _ in range(random.choice((1, 3, 20))):
            if content:
                place = random.randrange(len(content))
                content[place] = random.choice((random.randrange(256), 9, 10))
        return bytes(content)
    plain = text.encode("utf-8", "replace").decode()
    return random.choice(
        (
            b"\xef\xbb\xbf" + content,
            plain.encode("utf-16"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
            content + content,
            content + random.randbytes(50),
            b"",
            b"\n\n\n",
        )
    )


# ----------------------------------------------------------------------------
# The grammars: each writes a folder, and gives what is typed.


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
    from soak.recordings_parquet import write_parquet

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

# ----------------------------------------------------------------------------
# What must hold.


class Warnings(logging.Handler):
    """What a user is told beside."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = ""

    def emit(self, record):
        """Keep a line."""
        self.said += record.getMessage() + "\n"


def list_case(form):
    """A case of a grammar, as `recordings_child.tried` takes it."""

    def act(random, folder):
        (folder / "data").mkdir()
        odd_files(folder / "data")
        main = GRAMMARS[form](random, folder)
        return prepared(random, folder, form, main)

    return act


def prepared(random, folder, form, main) -> str:
    """Prepare a folder; what is wrong with how that ends (str)."""
    told, logger = Warnings(), logging.getLogger("speechbrain_ext")
    checks = (
        ("header", "full", "none")
        if form == "parquet"
        else (
            "header",
            "full",
        )
    )
    options = {
        "skip_bad": random.random() < 0.85,
        "check_audio": random.choice(checks),
        "threads": random.choice((1, 1, 1, 3)),
    }
    before, here = files_of(folder), os.getcwd()
    logger.addHandler(told)
    try:
        # A command in a list would be run from here.
        os.chdir(folder)
        said = typed(lambda: main(**options), RECIPE.get(form, OWN))
    finally:
        os.chdir(here)
        logger.removeHandler(told)
    new = files_of(folder) - before
    stray = [name for name in new if not name.startswith("out")]
    if stray:
        return f"wrote {', '.join(sorted(stray))}"
    if half := [name for name in new if name.endswith(".tmp")]:
        return f"left {half}"
    if said is not None:
        return unclear(said, str(folder), "data_folder", "train:", "split.")
    return use(folder, told.said)


def files_of(folder: Path) -> set[str]:
    """All below a folder."""
    return {
        os.path.relpath(os.path.join(here, name), folder)
        for here, below, names in os.walk(folder)
        for name in (*names, *below)
    }


def use(folder, warned) -> str:
    """Read the manifests and what they name, as training does."""
    root = str(folder / "data")
    manifests = [
        file
        for file in (folder / "out").glob("*.csv")
        if not file.stem.endswith("-left-out")
    ]
    if not manifests:
        return "neither a manifest nor a word why"
    for file in manifests:
        try:
            found = read_manifest(str(file), root)
        except Exception:
            return f"read_manifest: {traceback.format_exc()}"
        if not found:
            return "an empty manifest"
        for row in found.values():
            if wrong := use_row(row, folder, root, warned):
                return wrong
    return ""


def use_row(row, folder, root, warned) -> str:
    """Read the recording of a manifest's row."""
    place = row["wav"]
    if not 0 < row["duration"] < float("inf"):
        return f"a duration of {row['duration']}"
    if ".parquet#" in place:
        return ""
    inside = place.startswith(root) or place.startswith(str(folder / "out"))
    if (not inside or ".." in place) and "outside" not in warned:
        return f"{place} came in without a word"
    try:
        wav_N = read_place(place, resample=True, mix_channels=True)
    except AudioError as error:
        return unclear(str(error), str(folder))
    except Exception:
        return f"read_place: {traceback.format_exc()}"
    if abs(len(wav_N) / RATE - row["duration"]) > 0.01:
        return f"{place}: {row['duration']} s told, {len(wav_N)} samples read"
    return ""
