"""What is written means the same to transformers 4, in its own environment."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from conftest import make_decoder
from exported import make_run
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig

from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.saved_lm import old_rope, save_causal_lm
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechllm.export.write import export_runs

OLD = ["transformers==4.57.*", "huggingface_hub<1", "tokenizers<0.23"]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PLAIN = {"rope_type": "default", "rope_theta": 1_000_000.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "theta": ("qwen2", {"rope_parameters": PLAIN}),
    "yarn": (
        "qwen2",
        {
            "rope_parameters": YARN,
            "tie_word_embeddings": False,
            "max_position_embeddings": 128,
        },
    ),
}
TEXT = "one two <x> three, red ."
# Long enough for the scaled part of the rotary embedding to matter.
IDS = torch.arange(3, 67)[None]
READ = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {"version": transformers.__version__}
for folder in sys.argv[2:]:
    lm, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    with torch.no_grad():
        logits = lm.eval()(torch.arange(3, 67)[None]).logits
    found[folder] = one = {"logits": logits, "report": report}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        one["tokens"] = dict(tokenizer("one two <x> three, red ."))
        one["text"] = tokenizer.decode(one["tokens"]["input_ids"])
        one["chat"] = tokenizer.apply_chat_template(
            [{"role": "user", "content": "two"}], tokenize=False
        )
    except Exception as error:
        one["tokens"] = str(error)
torch.save(found, sys.argv[1])
"""


@pytest.fixture(scope="module")
def transformers4(tmp_path_factory):
    """A function: what transformers 4 reads from folders (dict)."""
    top = tmp_path_factory.mktemp("transformers4")
    venv.create(top / "venv", with_pip=False, symlinks=True)
    (packages,) = (top / "venv").glob("lib/python*/site-packages")
    # Everything else, torch above all, comes from this environment.
    rest = {str(Path(m.__file__).parents[1]) for m in (torch, pytest, json)}
    (packages / "rest.pth").write_text("\n".join(sorted(rest)) + "\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    made = subprocess.run(
        [*command, "--target", str(packages), *OLD],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"transformers 4 cannot be had here: {made.stderr[-300:]}")

    def read(*folders):
        result = top / "found.pt"
        subprocess.run(
            [
                str(top / "venv/bin/python"),
                *("-c", READ, str(result)),
                *map(str, folders),
            ],
            check=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        return torch.load(result, weights_only=False)

    yield read
    shutil.rmtree(top)


def write_all(case, top):
    """One model, written in each way; folder to what it must give."""
    kind, changes = CASES[case]
    source = make_decoder(kind, top / "source", **changes)
    tokenizer = AutoTokenizer.from_pretrained(source)
    extra = {"additional_special_tokens": ["<x>"]}
    tokenizer.add_special_tokens(extra)
    whole = AutoModelForCausalLM.from_pretrained(source).eval()
    loaded = load_pruned(source, Block(1, 2)).eval()
    dropped = drop_layers(whole, Block(1, 2))
    loaded.save_pretrained(top / "loaded")
    dropped.save_pretrained(top / "dropped")
    for name in ("loaded", "dropped"):
        tokenizer.save_pretrained(top / name)
    save_causal_lm(dropped, tokenizer, top / "saved")
    save_causal_lm(dropped, tokenizer, top / "shards", "20KB")
    assert (top / "shards/model.safetensors.index.json").is_file()
    save_causal_lm(dropped.bfloat16(), tokenizer, top / "half")
    return whole, tokenizer


@pytest.mark.slow
def test_transformers_4_reads_the_same(
    transformers4, tmp_path, encoder_folders
):
    models, ways = {}, ["loaded", "dropped", "saved", "shards", "half"]
    for case in CASES:
        (tmp_path / case).mkdir()
        models[case] = write_all(case, tmp_path / case)
    run = make_run(
        tmp_path / "run",
        str(tmp_path / "llama3/source"),
        encoder_folders["wavlm"],
    )
    export_runs([run], str(tmp_path / "e"), tell=lambda line: None)
    folders = {tmp_path / case / way for case in CASES for way in ways}
    backbone = tmp_path / "e/backbone"
    source = tmp_path / "llama3/source"
    found = transformers4(*folders, backbone, source)
    assert found["version"].startswith("4.57.")
    for folder in [*folders, backbone]:
        seen = found[str(folder)]
        assert not any(seen["report"].values())
        here = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = here(IDS).logits
        assert seen["logits"].dtype == logits.dtype
        atol = 0.1 if folder.name == "half" else 1e-4
        torch.testing.assert_close(seen["logits"], logits, rtol=0, atol=atol)
    for folder in folders:
        if folder.name in ("loaded", "dropped"):
            continue
        tokenizer = models[folder.parent.name][1]
        seen = found[str(folder)]
        assert seen["tokens"] == dict(tokenizer(TEXT))
        assert seen["text"] == tokenizer.decode(seen["tokens"]["input_ids"])
        assert "two" in seen["chat"]
    # The tool must be able to tell: what transformers 5 writes is misread.
    whole = models["llama3"][0].float()
    seen = found[str(source)]
    with torch.no_grad():
        assert (seen["logits"] - whole(IDS).logits).abs().max() > 0.1
    assert "TokenizersBackend" in seen["tokens"]


@pytest.mark.parametrize("case", CASES)
def test_both_spellings_stand_in_the_file(case, tmp_path):
    write_all(case, tmp_path)
    wanted = dict(CASES[case][1]["rope_parameters"])
    theta = wanted.pop("rope_theta")
    for way in ("loaded", "dropped", "saved", "shards", "half"):
        config = json.loads((tmp_path / way / "config.json").read_text())
        assert config["rope_theta"] == theta
        scaling = None if case == "theta" else wanted
        assert config["rope_scaling"] == scaling
        assert config["rope_parameters"]["rope_theta"] == theta
        again = AutoModelForCausalLM.from_pretrained(tmp_path / way)
        assert again.config.rope_parameters == {**wanted, "rope_theta": theta}
        if way in ("saved", "shards", "half"):
            assert config["torch_dtype"] == config["dtype"]
    tokens = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokens["additional_special_tokens"] == ["<x>"]
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXT) == AutoTokenizer.from_pretrained(tmp_path / "loaded")(
        TEXT
    )
    assert again.extra_special_tokens == ["<x>"]


def test_a_new_embedding_is_what_is_saved(tmp_path):
    """What the user sets later counts, not the spelling from before."""
    lm = load_pruned(make_decoder("llama", tmp_path / "m"), Block(1, 1))
    lm.config.rope_parameters = dict(LLAMA3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    save_causal_lm(lm, tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["rope_theta"] == 500_000.0
    assert config["rope_scaling"]["factor"] == 8.0


def test_an_embedding_for_each_kind_of_attention():
    config = Gemma3TextConfig()
    config.rope_parameters["full_attention"] = dict(LLAMA3)
    config.rope_parameters["sliding_attention"]["rope_theta"] = 7.0
    old = old_rope(config)
    assert (old["rope_theta"], old["rope_local_base_freq"]) == (5e5, 7.0)
    assert old["rope_scaling"]["factor"] == 8.0
