"""Every YAML of the LibriSpeech recipe, against the real models' configs."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import pretend_baseline
from speechbrain.utils.run_opts import RunOptions
from transformers import AutoConfig

from speechbrain_ext.training.faults import ConfigError
from speechbrain_ext.training.run_record import NOT_TRAINING
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.settings import load_hparams
from upstream.full_yaml import full_yaml
from upstream.rows import plain_values

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("recipes/*/*/*/train.py"))
CONFIGS = ROOT / "tests/published_configs"
HPARAMS = ROOT / "recipes/LibriSpeech/ASR/SpeechLLM/hparams"
# YAML, config, layers, width, removed, the paper's percentage (Table 1).
TABLE_1 = [
    ("qwen7b", "qwen2.5-7b", 28, 3584, 8, 28.6),
    ("qwen7b_lora", "qwen2.5-7b", 28, 3584, 5, 17.9),
    ("qwen3b", "qwen2.5-3b", 36, 2048, 11, 30.6),
    ("qwen1.5b", "qwen2.5-1.5b", 28, 1536, 7, 25.0),
    ("llama8b", "llama3.1-8b", 32, 4096, 14, 43.8),
    ("llama3b", "llama3.2-3b", 28, 3072, 11, 39.3),
    ("llama1b", "llama3.2-1b", 16, 2048, 1, 6.3),
]


def load(name, config, tmp_path, monkeypatch, **overrides):
    monkeypatch.chdir(HPARAMS.parent)
    overrides = {
        "data_folder": str(tmp_path),
        "results_folder": str(tmp_path),
        "backbone.source": str(CONFIGS / config),
        "speech_encoder.source": str(CONFIGS / "wavlm-large"),
        **overrides,
    }
    return load_hparams(f"hparams/{name}.yaml", overrides, [speechllm_rules])


@pytest.mark.parametrize(
    "name, config, layers, width, removed, per_cent", TABLE_1
)
def test_pairs_of_table_1(
    name, config, layers, width, removed, per_cent, tmp_path, monkeypatch
):
    whole = load(name, config, tmp_path, monkeypatch)
    pretend_baseline(tmp_path / name)
    pruned = load(f"{name}_prune", config, tmp_path, monkeypatch)
    published = AutoConfig.from_pretrained(pruned["backbone"]["source"])
    assert published.num_hidden_layers == layers
    assert published.hidden_size == width
    assert whole["prune_layers"] == 0 and not whole["baseline"]
    assert pruned["prune_layers"] == removed
    assert round(100 * removed / layers + 1e-9, 1) == per_cent
    # The pruned run takes the parts of the very baseline beside it.
    assert pruned["baseline"] == whole["output_folder"]
    assert pruned["backbone"]["name"] == whole["backbone"]["name"]
    assert pruned["healing"] == "both"
    assert whole["adapt_attention"] == name.endswith("_lora")
    assert not pruned["adapt_attention"]
    assert pruned["load_decoder"].keywords["source"] == str(CONFIGS / config)


def test_no_yaml_is_left_out(tmp_path, monkeypatch):
    named = {name + end for name, *_ in TABLE_1 for end in ("", "_prune")}
    minis = {"mini", "mini_prune", "mini_lora", "mini_lora_prune"}
    named |= {"train", *minis}
    assert named == {path.stem for path in HPARAMS.glob("*.yaml")}
    for name in ("train", "mini", "mini_lora"):
        load(name, "qwen2.5-7b", tmp_path, monkeypatch)


def test_mini_reads_the_shipped_models(tmp_path, monkeypatch):
    monkeypatch.chdir(HPARAMS.parent)
    pretend_baseline(tmp_path / "mini")
    hparams = load_hparams(
        "hparams/mini_prune.yaml",
        {"data_folder": str(tmp_path), "results_folder": str(tmp_path)},
        [speechllm_rules],
    )
    config = AutoConfig.from_pretrained(hparams["backbone"]["source"])
    assert config.num_hidden_layers == 12
    assert hparams["prune_layers"] * 6 == config.num_hidden_layers


def test_depth_without_a_receiving_layer_is_refused(tmp_path, monkeypatch):
    pretend_baseline(tmp_path / "qwen7b")
    with pytest.raises(ConfigError, match="choose 1 to 27"):
        load(
            "qwen7b_prune", "qwen2.5-7b", tmp_path, monkeypatch, prune_layers=28
        )


RECIPES = ROOT / "recipes"
FULL = [
    pytest.param(path, id=f"{path.parts[-5]}-{path.stem}")
    for path in sorted(RECIPES.glob("*/*/SpeechLLM/hparams/*.yaml"))
    if not path.stem.startswith("mini")
]
MINI = [
    pytest.param(path, id=f"{path.parts[-5]}-{path.stem}")
    for path in sorted(RECIPES.glob("*/*/SpeechLLM/hparams/mini*.yaml"))
]


def settings(path):
    """A YAML's plain values, fragments written in."""
    return plain_values(full_yaml(str(path), set()))


@pytest.mark.parametrize("path", FULL)
def test_full_size_follows_the_references(path):
    plain = settings(path)
    assert plain["prompt"].endswith("{bos}{target}")
    if "OwnData" in path.parts:
        # For a CPU, which is slower in 16 bit; no reference has this size.
        assert plain["speech_encoder"]["dtype"] == "float32"
        assert plain["keep"] == ("last" if path.stem == "train" else "best")
        return
    assert plain["keep"] == "last"
    # 16 bit, derived from the paper's 15.72 GiB.
    assert plain["speech_encoder"]["dtype"] == "bfloat16"
    # SpeechBrain has it for WavLM and its kin, not for Whisper.
    is_wavlm = plain["speech_encoder"]["kind"] == "wavlm"
    assert plain["speech_encoder"]["output_norm"] is is_wavlm
    for key in ("lr_projector", "lr_adapter", "lr_bridge"):
        assert plain[key] == 0.0005
    assert plain["length_pool"] == 64
    if "CoVoST2" in path.parts:
        assert plain["train_min_seconds"] == 1.0
        assert plain["train_max_seconds"] == 10.0


@pytest.mark.parametrize("path", MINI)
def test_the_mini_world_says_itself_where_it_departs(path):
    """A change of a full-size default must move none of its scores."""
    plain = settings(path)
    assert plain["speech_encoder"]["dtype"] == "float32"
    assert plain["speech_encoder"]["output_norm"] is False
    assert "{bos}" not in plain["prompt"]
    assert plain["length_pool"] == 1
    prune = "prune" in path.stem
    rates = [plain[f"lr_{part}"] for part in ("projector", "adapter", "bridge")]
    if "Loquacious" in path.parts:
        assert rates == [0.003, 0.01, 0.01]
    elif prune:
        asr = "LibriSpeech" in path.parts
        assert rates == [0.001, 0.02, 0.01 if asr else 0.0001]
    else:
        lora = 0.003 if "lora" in path.stem else 0.0001
        assert rates == [0.003, lora, 0.0001]
    if "CoVoST2" in path.parts:
        assert plain["train_min_seconds"] == 0
        assert plain["train_max_seconds"] == 3600


@pytest.mark.parametrize("path", FULL)
def test_a_head_says_what_it_takes_and_what_to_expect(path):
    text = path.read_text(encoding="utf-8")
    head = text[: text.index("\n\n" if path.stem == "train" else "base:")]
    assert "Command: python train.py hparams/" in head
    if path.stem == "train":
        return
    for word in ("Hardware:", "Time", "measured here"):
        assert word in head
    assert (
        "to expect, the paper's" in head
        or "nor in the paper" in head
        or ("the paper does not train" in head)
    )


def test_llama_8b_has_a_schedule_of_its_own():
    """The paper says so; a change of the others' must not reach it."""
    text = (HPARAMS / "llama8b.yaml").read_text(encoding="utf-8")
    own = yaml.safe_load(text.replace("!include:", ""))
    assert {"steps", "warmdown_steps"} <= set(own)
    assert "(stated) this model has a schedule of its own. (guess)" in text


@pytest.mark.parametrize("name", [name for name, *_ in TABLE_1])
def test_healing_takes_a_tenth_of_the_baselines_steps(name):
    whole = settings(HPARAMS / f"{name}.yaml")
    healed = settings(HPARAMS / f"{name}_prune.yaml")
    for key in ("steps", "warmup_steps", "warmdown_steps"):
        assert healed[key] * 10 == whole[key]


def test_output_norm_reaches_the_encoder(
    tmp_path, monkeypatch, encoder_folders
):
    monkeypatch.chdir(HPARAMS.parent)
    overrides = {
        "data_folder": "/data",
        "results_folder": str(tmp_path),
        "speech_encoder.source": encoder_folders["wavlm"],
        "speech_encoder.kind": "wavlm",
    }
    for wanted in (True, False):
        overrides["speech_encoder.output_norm"] = wanted
        hparams = load_hparams("hparams/mini.yaml", overrides)
        assert hparams["load_encoder"]().output_norm is wanted


def test_swapping_the_backbone_is_one_line(tmp_path, monkeypatch):
    file = HPARAMS / "models/backbones/llama3.2-3b.yaml"
    hparams = load(
        "qwen7b", "llama3.2-3b", tmp_path, monkeypatch, backbone=str(file)
    )
    assert hparams["backbone"]["name"] == "Llama-3.2-3B"


def test_static_decoding_is_one_setting(tmp_path, monkeypatch):
    told = [
        load("qwen7b", "qwen2.5-7b", tmp_path, monkeypatch, **changes)[
            "load_decoder"
        ].keywords["decode_static"]
        for changes in ({}, {"decode_static": True})
    ]
    assert told == [False, True]


# -- the script and the YAML tell of each other --------------------------------


@pytest.mark.parametrize("recipe", FOLDERS, ids=lambda path: path.parts[-3])
def test_every_key_is_told_of(recipe):
    """As SpeechBrain's check has it: referred to, or read in the script."""
    text = (recipe / "hparams/train.yaml").read_text()
    script = (recipe / "train.py").read_text()
    keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    run_options = {f.name for f in fields(RunOptions)} | {"__set_seed"}
    for key in keys - run_options:
        told = rf'!ref .*<{key}\b|\["{key}"\]|hparams\.{key}\b'
        assert re.search(told, text + script), key
    # And the loop, as train.py tells it, goes by keys that there are.
    assert set(re.findall(r"hparams\.(\w+)", script.split('"""')[1])) <= keys


def test_settings_that_do_not_train_are_keys():
    keys = set()
    for recipe in FOLDERS:
        text = (recipe / "hparams/train.yaml").read_text()
        keys |= set(re.findall(r"^(\w+):", text, re.MULTILINE))
    assert set(NOT_TRAINING) <= keys
