"""Where things stand here, and where SpeechBrain's reviewers look for them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = "speechbrain_ext"
# It stands on transformers and peft, which SpeechBrain itself does not need:
# such code belongs to its integrations.
PACKAGE = "speechbrain.integrations.huggingface.speech_llm"
LIBRARY = PACKAGE.replace(".", "/")
TESTS = "speechbrain/integrations/tests/speech_llm"
SETUP = "tests/recipes/setup"
# Outputs of recipe tests; SpeechBrain's .gitignore names tests/tmp.
SCRATCH = "tests/tmp/speech_llm"

# Modules and packages that stand elsewhere there. A full YAML needs no layers
# of variants: of that package only the wording of faults travels. SpeechBrain's
# .gitignore passes over every folder of the name results.
MOVED = {"hparams/faults.py": "faults.py", "results/": "run_results/"}
# Functions that stay here, by file.
LEFT_OUT = {
    "speechbrain_ext/training/experiment.py": {"open_experiment"},
    "tests/conftest.py": {"recipe", "write_settings", "settings", "RECIPE"},
}
# Beside the recipes' own needs: tiny models for examples and recipe tests.
ALSO = ["speechbrain_ext/tiny_models.py"]


@dataclass(frozen=True)
class Recipe:
    """One recipe, here and there."""

    dataset: str
    ours: str
    theirs: str
    csv: str
    task: str
    prepare: str
    their_prepare: str
    template: str = None
    exchanged: dict = field(default_factory=dict)
    dropped: tuple = ()
    data: str = ""


RECIPES = [
    Recipe(
        dataset="LibriSpeech",
        ours="recipes/LibriSpeech/ASR/SpeechLLM",
        theirs="recipes/LibriSpeech/ASR/SpeechLLM",
        csv="LibriSpeech",
        task="ASR-SpeechLLM",
        # SpeechBrain's writes the same columns: no second script beside it.
        prepare=None,
        their_prepare="librispeech_prepare.py",
        template="librispeech.py",
        exchanged={
            "find_root, prepare_librispeech": "prepare_librispeech",
            'root = find_root(hparams["data_folder"], all_splits(hparams))': (
                'root = hparams["data_folder"]'
            ),
        },
        dropped=("check_audio",),
        data="--train_splits=[train-clean-100] --valid_splits=[dev-clean]"
        " --test_splits=[test-clean]",
    ),
    Recipe(
        # Its folder there is CoVoST; the data are CoVoST 2.
        dataset="CoVoST",
        ours="recipes/CoVoST2/AST/SpeechLLM",
        theirs="recipes/CoVoST/AST/SpeechLLM",
        csv="CoVoST",
        task="ST-SpeechLLM",
        # SpeechBrain's lowers the case, strips the punctuation and leaves out
        # short sentences, of the test set too: BLEU would not compare.
        prepare="recipes/CoVoST2/covost2_prepare.py",
        their_prepare="covost2_prepare.py",
    ),
    Recipe(
        dataset="Loquacious",
        ours="recipes/Loquacious/ASR/SpeechLLM",
        theirs="recipes/Loquacious/ASR/SpeechLLM",
        # A file of that name would open SpeechBrain's own YAMLs of that
        # folder to a check that they do not pass; LibriSpeech's has other
        # folders' rows already.
        csv="LibriSpeech",
        task="ASR-SpeechLLM",
        # SpeechBrain's unpacks the whole set through another package.
        prepare="recipes/Loquacious/loquacious_prepare.py",
        their_prepare="loquacious_prepare.py",
    ),
]


def their_module(file):
    """Where a file of the library stands there."""
    inner = file.removeprefix(f"{OURS}/")
    for ours, theirs in MOVED.items():
        if inner.startswith(ours):
            inner = theirs + inner.removeprefix(ours)
    return f"{LIBRARY}/{inner}"


def _dotted(path):
    """A module's or a package's name from its path (str)."""
    return path.removesuffix(".py").strip("/").replace("/", ".")


def renamed(text):
    """A text with our names exchanged for the names there."""
    for ours, theirs in MOVED.items():
        ours, theirs = _dotted(ours), _dotted(theirs)
        text = re.sub(
            rf"\b{OURS}\.{re.escape(ours)}\b", f"{PACKAGE}.{theirs}", text
        )
        text = re.sub(
            rf"from {OURS} import {re.escape(ours)}$",
            f"from {PACKAGE} import {theirs} as {ours}",
            text,
            flags=re.MULTILINE,
        )
    # The name of the authors is no module's.
    author = f"The {OURS} authors"
    parts = text.split(author)
    for recipe in RECIPES:
        parts = [part.replace(recipe.ours, recipe.theirs) for part in parts]
    return author.join(part.replace(OURS, PACKAGE) for part in parts)
