"""A tiny world for campaigns: models, corpus, settings, a finished study.

Made without pytest by the functions behind the tests' fixtures.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import RECIPE, write_settings
from speech_llm_fixtures import make_decoder, make_encoder, write_corpus

PYTHON = sys.executable
SPLITS = {"train-clean-100": 10, "dev-clean": 5, "test-clean": 6}


@dataclass(frozen=True)
class World:
    """Folders of tiny models and a corpus, and settings that name them."""

    decoder: str
    encoder: str
    corpus: str
    settings: str

    def words(self, results, **changes) -> list[str]:
        """What is typed after ``python train.py`` in the recipe's folder."""
        words = [self.settings, "--data_folder", self.corpus]
        words += ["--results_folder", str(results), "--device", "cpu"]
        words += ["--noprogressbar"]
        for key, value in changes.items():
            words += [f"--{key}", str(value)]
        return words

    def command(self, results, script="train.py", **changes) -> list[str]:
        """A recipe's script as typed; run it with ``cwd=RECIPE``."""
        return [PYTHON, str(RECIPE / script), *self.words(results, **changes)]


def make_world(folder: Path, kind: str = "qwen2") -> World:
    """Tiny models, a tiny corpus and settings in a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    decoder = make_decoder(kind, folder / "decoder")
    encoder = make_encoder("wavlm", folder / "encoder")
    corpus = write_corpus(folder / "LibriSpeech", {**SPLITS, "test-other": 3})
    settings = write_settings(folder, decoder, encoder)
    return World(decoder, encoder, corpus, settings)
