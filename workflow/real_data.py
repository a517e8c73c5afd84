"""Models and recordings of `make real`: fetched, or linked where they are.

``python workflow/real_data.py RESULTS`` makes ``RESULTS/models`` and
Kaldi folders in ``RESULTS/data/real``:

- train, test: speechocean762's own; loss: test speakers that are not scored
- libri, test-other: LibriSpeech, to train on and out of domain
- synthetic: the mini world's voices say the training texts, and others that
  the decoder writes in their manner; neither those of the speakers that
  validate nor those of the test set

The variables REAL_MODELS and REAL_DATA name folders in which they are already:
``smollm2-135m`` and ``whisper-base-encoder``; ``speechocean762`` and
``LibriSpeech``. Without them all is fetched, its sizes told first. Started
again, it goes on.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tarfile
import urllib.request
from pathlib import Path

from speechbrain_ext.data.own_forms import read_data
from speechbrain_ext.runs.files import (
    sync,
    sync_folder,
    write_json,
    write_text,
)
from speechllm.mini_world.corpus.building import build, in_shards
from speechllm.mini_world.corpus.speech import speak
from speechllm.mini_world.corpus.voices import speakers, utter

RECIPE = Path(__file__).resolve().parents[1] / "recipes/OwnData/ASR/SpeechLLM"
sys.path.insert(0, str(RECIPE))
from own_prepare import draw  # noqa: E402

MODELS = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "whisper-base-encoder": "openai/whisper-base",
}
DECODER = "smollm2-135m"
# What of a model's repository is used.
FILES = ["*.json", "model.safetensors", "*.txt", "*.jinja"]
SLR = "https://www.openslr.org/resources"
# Archives and the folder that each unpacks to.
ARCHIVES = {
    f"{SLR}/101/speechocean762.tar.gz": "speechocean762",
    f"{SLR}/12/test-other.tar.gz": "LibriSpeech/test-other",
    # Five hours of LibriSpeech's train-clean-100.
    f"{SLR}/31/train-clean-5.tar.gz": "LibriSpeech/train-clean-5",
}
PIECE = 1 << 20
# Losses are of the first utterances of some test speakers after those scored.
LOSS_SPEAKERS, LOSS_UTTERANCES = 10, 10
# Words that a training text of a synthetic utterance has at most, as
# LibriSpeech's long sentences are cut.
MOST_WORDS = 10
VERSION = 1


# ----------------------------------------------------------------------------
# Fetching.


def absent(results):
    """Models and archives that are neither given nor fetched already."""
    models = {
        name: repository
        for name, repository in MODELS.items()
        if not os.environ.get("REAL_MODELS")
        and not (results / "models" / name / "config.json").exists()
    }
    archives = {
        url: place
        for url, place in ARCHIVES.items()
        if not os.environ.get("REAL_DATA")
        and not (results / "fetched" / place).exists()
    }
    return models, archives


def tell_sizes(models, archives, results):
    """Print what is to be fetched; refuses where it would not fit."""
    sizes = {url: length_of(url) for url in archives}
    if models:
        from huggingface_hub import HfApi

        for repository in models.values():
            info = HfApi().model_info(repository, files_metadata=True)
            sizes[repository] = sum(
                one.size or 0
                for one in info.siblings
                if any(Path(one.rfilename).match(kind) for kind in FILES)
            )
    for what, size in sizes.items():
        print(f"to fetch: {what}, {size / 1e6:,.0f} MB", flush=True)
    # Archives lie there packed and unpacked for a while.
    need = sum(sizes.values()) + 2 * sum(sizes[url] for url in archives)
    results.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(results).free
    if need > free:
        sys.exit(
            f"{results}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB "
            "are free: free space, or choose another folder"
        )


def length_of(url):
    """Bytes of what lies at an address."""
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(answer.headers["Content-Length"])


def fetch(url, file):
    """Fetch a file, from where an earlier start was stopped on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    there, size = part.stat().st_size if part.exists() else 0, length_of(url)
    if there < size:
        request = urllib.request.Request(url)
        if there:
            request.add_header("Range", f"bytes={there}-")
        with urllib.request.urlopen(request, timeout=60) as answer:
            # A server that knows no ranges begins anew.
            goes_on = answer.status == 206
            with open(part, "ab" if goes_on else "wb") as stream:
                shutil.copyfileobj(answer, stream, PIECE)
                stream.flush()
                os.fsync(stream.fileno())
    if part.stat().st_size != size:
        sys.exit(f"{url}: {part.stat().st_size} of {size} bytes: start again")
    part.rename(file)


def unpack(file, folder, place):
    """Unpack an archive, whole or not at all."""
    work = folder / f".unpacking-{file.name}"
    shutil.rmtree(work, ignore_errors=True)
    print(f"unpacking {file.name}", flush=True)
    with tarfile.open(file) as archive:
        archive.extractall(work, filter="data")
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    # Before the archive goes.
    sync(work / place)
    (work / place).rename(target)
    sync_folder(target.parent)
    shutil.rmtree(work)
    file.unlink()


def fetch_all(results):
    """Fetch what is absent."""
    models, archives = absent(results)
    if models or archives:
        tell_sizes(models, archives, results)
    for name, repository in models.items():
        from huggingface_hub import snapshot_download

        repository, _, revision = repository.partition("@")
        snapshot_download(
            repository,
            revision=revision or None,
            local_dir=results / "models" / name,
            allow_patterns=FILES,
        )
    for url, place in archives.items():
        file = results / "fetched" / url.rpartition("/")[2]
        if not file.exists():
            fetch(url, file)
        unpack(file, results / "fetched", place)


# ----------------------------------------------------------------------------
# Where they lie.


def link(place, target):
    """A link to a folder that must be there."""
    if not target.exists():
        sys.exit(
            f"{target}: not there: REAL_MODELS is a folder with "
            f"{' and '.join(MODELS)} in it, REAL_DATA one with speechocean762 "
            "and LibriSpeech; without them all is fetched"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() and place.resolve() != target.resolve():
        place.unlink()
    if not place.exists():
        place.symlink_to(target.resolve(), target_is_directory=True)


def link_all(results):
    """Models and corpora, below the results wherever they are."""
    given = os.environ.get("REAL_MODELS")
    for name in MODELS if given else ():
        link(results / "models" / name, Path(given).expanduser() / name)
    folder = results / "data" / "real"
    given = os.environ.get("REAL_DATA")
    top = Path(given).expanduser() if given else results / "fetched"
    for name in ("WAVE", "train", "test"):
        link(folder / name, top / "speechocean762" / name)
    link(folder / "LibriSpeech", top / "LibriSpeech")
    return folder


# ----------------------------------------------------------------------------
# Kaldi folders.


def write_kaldi(folder, rows):
    """Write a Kaldi folder of (name, speaker, file, text)."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"wav.scp": 2, "utt2spk": 1, "text": 3}
    for name, column in columns.items():
        lines = [f"{row[0]} {row[column]}\n" for row in sorted(rows)]
        write_text(folder / name, "".join(lines))


def librispeech(folder, kind):
    """Rows of LibriSpeech's splits whose names begin so."""
    rows = []
    for table in sorted(folder.glob(f"LibriSpeech/{kind}*/*/*/*.trans.txt")):
        for line in table.read_text(encoding="utf-8").splitlines():
            name, text = line.split(" ", 1)
            file = table.parent.relative_to(folder) / f"{name}.flac"
            if (folder / file).exists():
                rows.append((name, name.split("-")[0], file, text))
    if not rows:
        sys.exit(f"{folder}/LibriSpeech: no {kind} with recordings in it")
    return rows


def loss_rows(folder, scored):
    """Rows of some test speakers of whom nothing is scored."""
    test, _ = read_data(str(folder / "test"), str(folder), "kaldi", "test")
    by_speaker = {}
    for one in test:
        by_speaker.setdefault(one.row["spk_id"], []).append(one)
    names = sorted(by_speaker)[scored : scored + LOSS_SPEAKERS]
    if not names:
        sys.exit(f"{folder}/test: only {len(by_speaker)} speakers: score fewer")
    return [
        (
            one.name,
            name,
            Path(one.row["file"]).relative_to(folder),
            one.row["wrd"],
        )
        for name in names
        for one in by_speaker[name][:LOSS_UTTERANCES]
    ]


# ----------------------------------------------------------------------------
# Synthetic speech.


def texts_to_say(folder, split):
    """Texts of training alone, LibriSpeech's cut, and those not to be said."""
    train, test = (
        read_data(str(folder / name), str(folder), "kaldi", name)[0]
        for name in ("train", "test")
    )
    kept = draw(train, {"valid": split["valid"]}, split)["valid"]
    mine = {one.row["wrd"] for one in train if one.row["spk_id"] not in kept}
    closed = {one.row["wrd"] for one in test}
    closed |= {one.row["wrd"] for one in train if one.row["spk_id"] in kept}
    for *_, text in librispeech(folder, "train-clean"):
        words = text.split()
        pieces = -(-len(words) // MOST_WORDS)
        ends = [len(words) * i // pieces for i in range(pieces + 1)]
        mine |= {" ".join(words[a:b]) for a, b in zip(ends, ends[1:])}
    return sorted(mine - closed), sorted(closed)


def written_texts(file, source, texts, closed, count, seed):
    """Sentences that the decoder writes, or those that it wrote before."""
    asked = {"texts": texts, "closed": closed, "count": count, "seed": seed}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["asked"] == asked:
            return before["written"]
    # Not above: torch is long in coming, and mostly all is there already.
    from own_texts import own_texts

    print(f"{count} texts are written by {source.name}", flush=True)
    written = own_texts(str(source), texts, set(closed), count, seed)
    write_json(file, {"asked": asked, "written": written})
    return written


def say(folder, texts, count, voices, seed, processes):
    """Have synthetic voices say so many texts; a Kaldi folder."""
    settings = {"version": VERSION, "texts": texts, "count": count}
    settings |= {"voices": voices, "seed": seed}

    def write(new, scratch):
        """Write it into a folder that is new."""
        rng, rows, said, order = random.Random(seed), [], [], []
        group = speakers("train", "en", voices)
        for number in range(count):
            # Every text once before any is said again.
            order = order or rng.sample(texts, len(texts))
            text, one = order.pop(), group[number % len(group)]
            name = f"synthetic-{number:05d}"
            file = f"{name}.flac"
            said.append(utter(text.lower(), one, f"{new}/{file}", rng))
            rows.append((name, f"v{number % len(group):02d}", file, text))
        write_kaldi(Path(new), rows)
        speak(in_shards(said), scratch, processes, "synthetic speech")

    return build(str(folder), settings, write)


def main(argv=None):
    """Fetch, link, cut and speak."""
    parser = argparse.ArgumentParser(
        prog="python workflow/real_data.py", description=__doc__
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--valid", type=float, default=10, help="speakers")
    parser.add_argument("--seed", type=int, default=1, help="of that draw")
    parser.add_argument("--scored", type=int, default=40, help="test speakers")
    parser.add_argument("--synthetic", type=int, default=12000)
    parser.add_argument("--written", type=int, default=8000)
    parser.add_argument("--voices", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = options.results.resolve()
    fetch_all(results)
    folder = link_all(results)
    write_kaldi(folder / "libri", librispeech(folder, "train-clean"))
    write_kaldi(folder / "test-other", librispeech(folder, "test-other"))
    write_kaldi(folder / "loss", loss_rows(folder, options.scored))
    split = {"valid": options.valid, "seed": options.seed}
    texts, closed = texts_to_say(folder, split)
    if options.written:
        file, source = folder / "written.json", results / "models" / DECODER
        what = texts, closed, options.written, options.seed
        texts = texts + written_texts(file, source, *what)
    print(f"{len(texts)} texts are said {options.synthetic} times in all")
    many = options.synthetic, options.voices, options.seed
    say(folder / "synthetic", texts, *many, options.processes)


if __name__ == "__main__":
    main()
