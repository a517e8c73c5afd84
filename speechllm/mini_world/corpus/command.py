"""The mini world's corpora, each in the layout of the real one.

``python -m speechllm.mini_world.corpus FOLDER`` writes
``FOLDER/LibriSpeech``; ``--corpora`` names others: ``covost2-en_de`` and
``covost2-fr_en`` write ``FOLDER/CommonVoice/en`` and ``/fr``, ``loquacious``
writes ``FOLDER/LoquaciousSet``. What is there already stays. With ``--hash`` nothing
is spoken: a SHA-256 of every split is printed, over each sentence, its speaker
and how it is said, the same on every machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from speechllm.mini_world.corpus import covost2, librispeech, loquacious
from speechllm.mini_world.corpus.building import fingerprint


class Corpus(NamedTuple):
    """How a corpus is planned and built, and its splits' utterances."""

    build: Callable
    plan: Callable
    sizes: dict


def _covost2(source, target):
    pair = {"source": source, "target": target}
    return Corpus(
        functools.partial(covost2.build_covost2, **pair),
        functools.partial(covost2.plan_covost2, **pair),
        covost2.SIZES,
    )


CORPORA = {
    "librispeech": Corpus(
        librispeech.build_librispeech,
        librispeech.plan_librispeech,
        librispeech.SIZES,
    ),
    "covost2-en_de": _covost2("en", "de"),
    "covost2-fr_en": _covost2("fr", "en"),
    "loquacious": Corpus(
        loquacious.build_loquacious,
        loquacious.plan_loquacious,
        loquacious.SIZES,
    ),
}
USUAL = ["librispeech"]


def hashes(corpus: Corpus, sizes: dict, seed: int) -> dict[str, str]:
    """The hash of each split of a corpus."""
    with tempfile.TemporaryDirectory() as scratch:
        plans = corpus.plan(scratch, sizes, seed)
    return {split: fingerprint(*plan) for split, plan in plans.items()}


def main(argv: list[str] | None = None) -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.mini_world.corpus",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument(
        "folder", nargs="?", help="receives the corpora's folders"
    )
    parser.add_argument(
        "--hash", action="store_true", help="print every split's SHA-256 alone"
    )
    parser.add_argument("--corpora", nargs="+", choices=CORPORA)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--sizes",
        type=json.loads,
        default={},
        metavar="JSON",
        help='other numbers of utterances, such as {"ood": 100}',
    )
    options = parser.parse_args(argv)
    if options.folder is None and not options.hash:
        parser.error("give the folder that receives the corpora, or --hash")
    seed = options.seed
    for name in options.corpora or (CORPORA if options.hash else USUAL):
        corpus = CORPORA[name]
        sizes = {**corpus.sizes, **options.sizes}
        if options.hash:
            for split, told in hashes(corpus, sizes, seed).items():
                print(name, split, sizes[split], f"seed {seed}", told)
        else:
            own = {"sizes": sizes, "seed": seed, "processes": options.processes}
            print(corpus.build(options.folder, **own))
