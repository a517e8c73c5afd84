"""The mini world's corpora, each in the layout of the real one.

``python -m speechllm.mini_world.corpus FOLDER`` writes
``FOLDER/LibriSpeech``; ``--corpora`` names others: ``covost2-en_de`` and
``covost2-fr_en`` write ``FOLDER/CommonVoice/en`` and ``/fr``, ``loquacious``
writes ``FOLDER/LoquaciousSet``. What is there already stays.
"""

from __future__ import annotations

import argparse
import functools
import json

from speechllm.mini_world.corpus import covost2, librispeech, loquacious

# How each is built, and the utterances of its splits.
CORPORA = {
    "librispeech": (librispeech.build_librispeech, librispeech.SIZES),
    "covost2-en_de": (
        functools.partial(covost2.build_covost2, source="en", target="de"),
        covost2.SIZES,
    ),
    "covost2-fr_en": (
        functools.partial(covost2.build_covost2, source="fr", target="en"),
        covost2.SIZES,
    ),
    "loquacious": (loquacious.build_loquacious, loquacious.SIZES),
}


def main(argv: list[str] | None = None) -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.mini_world.corpus",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("folder", help="receives the corpora's folders")
    parser.add_argument(
        "--corpora", nargs="+", choices=CORPORA, default=["librispeech"]
    )
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
    for name in options.corpora:
        build, usual = CORPORA[name]
        print(
            build(
                options.folder,
                sizes={**usual, **options.sizes},
                seed=options.seed,
                processes=options.processes,
            )
        )
