"""Tiny models and tiny data for the recipe tests of the speech LLMs.

Run before each of them, in the repository's root, by the scripts beside it:
makes what is not there yet, from tests/samples; for a recipe that prunes, also
the baseline that it prunes.
"""

import csv
import io
import os
import shlex
import subprocess
import sys

import soundfile

from speechbrain_ext.tiny_models import tiny_decoder, tiny_encoder

SCRATCH = "tests/tmp/speech_llm"
SAMPLES = "tests/samples/annotation/ASR_train.csv"


def spoken(rate=16000):
    """Sound and words of the samples."""
    with open(SAMPLES, encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    sounds = [soundfile.read(row["wav"])[0][:32000] for row in rows]
    return [
        (sound.repeat(rate // 16000), row["wrd"])
        for sound, row in zip(sounds, rows)
    ]


def librispeech(folder):
    """The samples in LibriSpeech's layout."""
    for reader, split in enumerate(
        ("train-clean-100", "dev-clean", "test-clean"), start=1
    ):
        chapter = os.path.join(folder, split, str(reader), "10")
        os.makedirs(chapter)
        lines = []
        for index, (sound, words) in enumerate(spoken()):
            name = f"{reader}-10-{index:04d}"
            soundfile.write(f"{chapter}/{name}.flac", sound, 16000)
            lines.append(f"{name} {words.upper()}\n")
        with open(f"{chapter}/{reader}-10.trans.txt", "w") as stream:
            stream.writelines(lines)


def covost(folder):
    """The samples as two Common Voice releases with CoVoST's tables."""
    for source, target in (("en", "de"), ("fr", "en")):
        clips = os.path.join(folder, source, "clips")
        os.makedirs(clips)
        number = 0
        for split in ("train", "dev", "test"):
            rows = ["path\tsentence\ttranslation\tclient_id\n"]
            for sound, words in spoken(48000):
                number += 1
                name = f"common_voice_{source}_{number}.mp3"
                soundfile.write(f"{clips}/{name}", sound, 48000)
                rows.append(f"{name}\t{words}\t{words}\tsomeone\n")
            table = f"{folder}/{source}/covost_v2.{source}_{target}.{split}.tsv"
            with open(table, "w", encoding="utf-8") as stream:
                stream.writelines(rows)


def loquacious(folder):
    """The samples in Parquet files, as the Loquacious set has them."""
    import pyarrow
    from pyarrow import parquet

    for split in ("small", "dev", "test"):
        rows = []
        for index, (sound, words) in enumerate(spoken()):
            audio = io.BytesIO()
            soundfile.write(audio, sound, 16000, format="WAV")
            rows.append(
                {
                    "ID": f"{split}-{index}",
                    "duration": len(sound) / 16000,
                    "wav": {"bytes": audio.getvalue(), "path": "x.wav"},
                    "spk_id": "someone",
                    "sex": "unknown",
                    "text": words.upper(),
                }
            )
        os.makedirs(f"{folder}/{split}")
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, f"{folder}/{split}/{split}-0.parquet")


def own_data(folder):
    """The samples as anyone's own: a table beside its recordings."""
    os.makedirs(f"{folder}/clips")
    rows = [["path", "text", "translation", "speaker", "split"]]
    for split in ("train", "valid", "test"):
        for index, (sound, words) in enumerate(spoken()):
            name = f"clips/{split}-{index}.wav"
            soundfile.write(f"{folder}/{name}", sound, 16000)
            rows.append([name, words, words, f"someone-{split}", split])
    with open(f"{folder}/data.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


DATA = {
    "LibriSpeech": librispeech,
    "CoVoST": covost,
    "Loquacious": loquacious,
    "OwnData": own_data,
}


def make(name, build):
    """Build a folder whole or not at all, unless it is there."""
    folder = os.path.join(SCRATCH, name)
    if not os.path.isdir(folder):
        os.makedirs(f"{folder}.part", exist_ok=True)
        build(f"{folder}.part")
        os.rename(f"{folder}.part", folder)


def train_baseline(recipe, name):
    """Train what a pruned recipe prunes, by that recipe's own test flags."""
    hparams = f"{recipe}/hparams/{name}.yaml"
    for file in os.listdir("tests/recipes"):
        if not file.endswith(".csv"):
            continue
        with open(f"tests/recipes/{file}", encoding="utf-8") as stream:
            for row in csv.DictReader(stream, skipinitialspace=True):
                if row["Hparam_file"] == hparams:
                    flags = shlex.split(row["test_debug_flags"])
    subprocess.run(
        [sys.executable, f"{recipe}/train.py", hparams, *flags, "--device=cpu"],
        env={**os.environ, "PYTHONPATH": recipe},
        check=True,
    )


def main(script):
    """Make what one recipe test needs."""
    folder, name = script.split(os.sep)[-2:]
    recipe = folder.removeprefix("recipes_").removesuffix("_train")
    recipe = "recipes/" + recipe.replace("_", "/")
    name = name.removeprefix("hparams_")
    for kind in ("qwen2", "llama"):
        make(kind, lambda to, kind=kind: tiny_decoder(to, kind))
    for kind in ("wavlm", "whisper"):
        make(kind, lambda to, kind=kind: tiny_encoder(to, kind))
    dataset = recipe.split("/")[1]
    make(f"{dataset}_data", DATA[dataset])
    baseline = name.removesuffix("_prune")
    done = f"{SCRATCH}/{dataset}/{baseline}/trained/system.json"
    if baseline != name and not os.path.isfile(done):
        train_baseline(recipe, baseline)


if __name__ == "__main__":
    main(sys.argv[1])
