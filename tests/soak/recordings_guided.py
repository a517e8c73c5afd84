"""Coverage-guided: atheris changes the lists' bytes towards new branches.

Only where atheris is installed (``pip install atheris``; it is no package of
the project). As a script, ``recordings_guided.py READER RUNS SEED FOLDER``.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Not this folder itself: a family has the name of a standard module.
    sys.path[:1] = [str(TESTS), str(TESTS / "core")]

from soak.campaign import Outcome  # noqa: E402
from soak.recordings_child import MEND  # noqa: E402

RUNS = 100_000
SEEDS = {
    "tsv": (
        b"path\tsentence\ttranslation\tclient_id\na.mp3\tA\\\tcat.\tEine.\tc\n",
        b'path\tsentence\ttranslation\tclient_id\nb\t"one ""two"""\t\t\r\n',
    ),
    "transcripts": (
        b"7-9-0000 A CAT\n7-9-0001\n",
        "\ufeff7-9-0000 \u2028 É\r\n7-9-0000 TWO\n".encode(),
    ),
}


def guided(reader: str, setting) -> Iterator[Outcome]:
    """An outcome for each input that atheris tried; none without it."""
    kind = f"coverage-guided: {reader}"
    there = importlib.util.find_spec("atheris")
    if there is None or not setting.wants(kind):
        return
    folder = setting.folder / f"guided-{reader}"
    folder.mkdir(parents=True)
    words = [__file__, reader, str(RUNS), str(setting.seed), str(folder)]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=folder
    )
    said = done.stdout + done.stderr
    many = max(map(int, re.findall(r"^#(\d+)", said, re.M)), default=0)
    for number in range(many - bool(done.returncode)):
        yield Outcome(kind, f"input {number}")
    if done.returncode or not many:
        yield Outcome(kind, "the last input", said[-1500:] or "nothing was run")


def reader_of(name):
    """What reads a file of a kind."""
    from soak import recordings_grammars  # noqa: F401  (the recipes' folders)

    if name == "tsv":
        from covost2_prepare import read_tsv, utterance

        def read(file):
            rows, _ = read_tsv(file)
            for place, header, cells in rows:
                str(utterance(header, cells, place, {"a.mp3"}, "en"))

        return read
    from librispeech_prepare import add_transcripts, refuse_mismatch

    def read(file):
        found = {}
        add_transcripts(file, found)
        for one in found.values():
            refuse_mismatch(one)
            str(one)

    return read


def main(name, runs, seed, folder):
    """Change bytes until the runs are over, or an error is none of ours."""
    import atheris

    with atheris.instrument_imports(
        include=["covost2_prepare", "librispeech_prepare", "csv"]
    ):
        read = reader_of(name)
    from speechbrain_ext.data.manifests import PreparationError

    corpus = Path(folder, "corpus")
    corpus.mkdir()
    for number, content in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(content)
    file = Path(folder, "a.trans.txt")

    def try_one(content):
        file.write_bytes(content)
        try:
            read(str(file))
        except PreparationError as error:
            assert str(file) in str(error) and MEND.search(str(error))

    options = [f"-runs={runs}", f"-seed={seed}", "-max_len=4096", "-timeout=10"]
    atheris.Setup(
        [sys.argv[0], *options, "-rss_limit_mb=3000", str(corpus)], try_one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
