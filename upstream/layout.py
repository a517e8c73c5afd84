"""Where things stand here and there, and which pull request brings them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = "speechbrain_ext"
# It stands on transformers and peft, which SpeechBrain itself does not need:
# such code belongs to its integrations.
PACKAGE = "speechbrain.integrations.huggingface.speech_llm"
LIBRARY = PACKAGE.replace(".", "/")
OUR_TESTS = "tests/core"
TESTS = "speechbrain/integrations/tests/speech_llm"
SETUP = "tests/recipes/setup"
# Outputs of recipe tests; SpeechBrain's .gitignore names tests/tmp.
SCRATCH = "tests/tmp/speech_llm"
AUTHOR = f"The {OURS} authors, 2026"

# The marker for this repository's type checker, and earlier names' import lines.
STAYS = ("py.typed", "inference.py", "pruning.py", "redundancy.py")

# One pull request each, on top of those before it: modules and folders of the
# library, without endings. The first has all that none of the others names.
SLICES: dict[str, tuple[str, ...]] = {
    "asr": (),
    "checks": (
        "layers/families",
        "training/baseline_checks",
        "training/faults",
        "training/options",
        "training/settings",
    ),
    "safety": (
        "runs/disks",
        "runs/folders",
        "training/left_out",
        "training/stops",
        "training/watch",
    ),
    "speed": (
        "data/seconds",
        "layers/converting",
        "model/encoder_fast",
        "model/few_rows",
    ),
    "records": (
        "layers/agreement",
        "runs/reading",
        "scores/counts",
        "scores/intervals",
        "scores/telling",
        "training/fingerprint",
        "training/keep_best",
        "training/older_runs",
        "training/peak_memory",
    ),
    "models": (
        "layers/nested",
        "layers/saved_lm",
        "layers/texts",
        "model/answer_ids",
    ),
    "plans": (
        "layers/plans",
        "layers/rules",
        "layers/search",
        "layers/streams",
        "layers/linear_map",
        "training/measure",
    ),
    "maps": (
        "healing/bridge",
        "healing/budgets",
        "healing/closed_form",
        "healing/distillation",
        "healing/frozen_adapter",
        "healing/more_presets",
        "training/whole_model",
    ),
    "features": (
        "data/audio",
        "data/audio_damage",
        "data/audio_file",
        "data/audio_hash",
        "data/cached_sets",
        "data/features",
        "data/row_groups",
        "model/encoder_identity",
        "model/packing",
        "model/static_decoding",
    ),
    "covost": (
        "data/manifests",
        "data/rows",
        "model/whisper_core",
        "scores/translation",
    ),
    "loquacious": ("data/parquet", "training/trained_run"),
    "own": ("data/augment", "data/own_forms", "training/alignment"),
}
ORDER = list(SLICES)


def slice_of(path: str) -> str:
    """The slice of a path below the library's folder, module or name."""
    stem = path.removesuffix(".py") + "/"
    for name, parts in SLICES.items():
        if any(stem.startswith(f"{part}/") for part in parts):
            return name
    return ORDER[0]


def latest(names) -> str:
    """The last in order of some slices' names; of none, the first."""
    return max(names, key=ORDER.index, default=ORDER[0])


@dataclass(frozen=True)
class Recipe:
    """One recipe, here and there."""

    dataset: str
    slice: str
    ours: str
    theirs: str
    csv: str
    task: str
    prepare: str | None
    their_prepare: str
    exchanged: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    data: str = ""
    # YAMLs that need more than the recipe's slice.
    later: dict[str, str] = field(default_factory=dict)

    def slice_of(self, name: str) -> str:
        """The slice that brings a YAML."""
        return self.later.get(name, self.slice)


# The settings lines of every train.py: a variant over a base here, one full
# YAML there, which checks itself (full_yaml.py).
SETTINGS = {
    "from speechbrain_ext.training.settings import speechllm_rules\n": "",
    "from speechllm.settings import load_hparams, merge, parse_arguments\n": (
        "from hyperpyyaml import load_hyperpyyaml, resolve_references\n"
    ),
    "overrides = parse_arguments(argv)": "overrides = sb.parse_arguments(argv)",
    """\
    hparams = load_hparams(hparams_file, overrides, [speechllm_rules])
    settings = merge(hparams_file, overrides, hparams["output_folder"])
""": """\
    with open(hparams_file, encoding="utf-8") as fin:
        settings = fin.read()
    hparams = load_hyperpyyaml(settings, overrides)
    settings = resolve_references(settings, overrides).getvalue()
""",
}

RECIPES = [
    Recipe(
        dataset="LibriSpeech",
        slice="asr",
        ours="recipes/LibriSpeech/ASR/SpeechLLM",
        theirs="recipes/LibriSpeech/ASR/SpeechLLM",
        csv="LibriSpeech",
        task="ASR-SpeechLLM",
        # SpeechBrain's writes the same columns: no second script beside it.
        prepare=None,
        their_prepare="librispeech_prepare.py",
        exchanged={
            "find_root, prepare_librispeech": "prepare_librispeech",
            'find_root(hparams["data_folder"], all_splits(hparams))': (
                'hparams["data_folder"]'
            ),
            "from speechbrain_ext.data.sets import all_splits\n": "",
            # Of FLAC alone, which SpeechBrain reads: the reader of any kind
            # of audio is of a later slice.
            "from speechbrain_ext.data.audio import read_utterance\n": "",
            "read_utterance(wav)": "sb.dataio.dataio.read_audio(wav)",
            """\
        all_splits(hparams),
        skip_prep=hparams["skip_prep"],
        skip_bad=hparams["skip_bad"],
        check_audio=hparams["check_audio"],
""": """\
        tr_splits=hparams["train_splits"],
        dev_splits=[*hparams["valid_splits"], *hparams["loss_splits"]],
        te_splits=hparams["test_splits"],
        skip_prep=hparams["skip_prep"],
""",
        },
        dropped=("check_audio",),
        data="--train_splits=[train-clean-100] --valid_splits=[dev-clean]"
        " --test_splits=[test-clean]",
        # A baseline with LoRA is kept apart when it is pruned.
        later={"qwen7b_lora": "maps", "qwen7b_lora_prune": "maps"},
    ),
    Recipe(
        # Its folder there is CoVoST; the data are CoVoST 2.
        dataset="CoVoST",
        slice="covost",
        ours="recipes/CoVoST2/AST/SpeechLLM",
        theirs="recipes/CoVoST/AST/SpeechLLM",
        csv="CoVoST",
        task="ST-SpeechLLM",
        # SpeechBrain's lowers the case, strips the punctuation and leaves out
        # short sentences, of the test set too: BLEU would not compare.
        prepare="recipes/CoVoST2/AST/SpeechLLM/covost2_prepare.py",
        their_prepare="covost2_prepare.py",
    ),
    Recipe(
        dataset="Loquacious",
        slice="loquacious",
        ours="recipes/Loquacious/ASR/SpeechLLM",
        theirs="recipes/Loquacious/ASR/SpeechLLM",
        # A file of that name would open SpeechBrain's own YAMLs of that
        # folder to a check that they do not pass; LibriSpeech's has other
        # folders' rows already.
        csv="LibriSpeech",
        task="ASR-SpeechLLM",
        # SpeechBrain's unpacks the whole set through another package.
        prepare="recipes/Loquacious/ASR/SpeechLLM/loquacious_prepare.py",
        their_prepare="loquacious_prepare.py",
    ),
    Recipe(
        dataset="OwnData",
        slice="own",
        ours="recipes/OwnData/ASR/SpeechLLM",
        theirs="recipes/OwnData/ASR/SpeechLLM",
        csv="OwnData",
        task="ASR-SpeechLLM",
        prepare="recipes/OwnData/ASR/SpeechLLM/own_prepare.py",
        their_prepare="own_prepare.py",
    ),
]


def renamed(text: str, author: str = AUTHOR) -> str:
    """A text with our prefix exchanged for the one there, and signed."""
    parts = text.split(AUTHOR)
    for recipe in RECIPES:
        parts = [part.replace(recipe.ours, recipe.theirs) for part in parts]
    parts = [part.replace(f"{OURS}/", f"{LIBRARY}/") for part in parts]
    return author.join(part.replace(OURS, PACKAGE) for part in parts)
