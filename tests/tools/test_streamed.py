"""A causal LM read a layer at a time says what it says from memory."""

import re
import subprocess
import sys
import tempfile

import families
import numpy as np
import pytest
import torch
from speech_llm_fixtures import KINDS, SIZES, make_decoder
from test_cli import speechllm
from transformers import AutoModelForCausalLM

from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.lm_calls import last_states
from speechbrain_ext.layers.rules import RULES
from speechbrain_ext.layers.surgery import drop_layers
from speechllm.streamed import memory, walk
from speechllm.streamed.parts import Parts
from speechllm.streamed.score import first_look, streamed_perplexity
from speechllm.streamed.walk import Room, StreamedLM
from speechllm.text_lm import (
    batches_of,
    load_text_model,
    perplexity,
)
from speechllm.text_rules import compare_rules

# Each does something of its own between, around or inside its layers.
SOME = """bamba cohere2 deepseek_v3 gemma2 gemma3_text gpt_oss granitemoehybrid
lfm2 llama mixtral olmo2 phi3 qwen2 qwen3_5_text qwen3_next smollm3
starcoder2""".split()
# Right in memory, and refused here: renamed embeddings, shared indices.
REFUSED = {"bailing_hybrid", "glm_moe_dsa", "sarvam_moe"}


def right_families():
    """What the page of families calls right."""
    page = families.PAGE.read_text(encoding="utf-8")
    return re.search(r"^\| (afmoe.*?) \|", page, re.M)[1].split(", ")


def saved(kind, folder, **how):
    """A family's tiny model, saved."""
    families.quiet()
    families.tiny_lm(families.tiny_config(kind)).save_pretrained(folder, **how)
    return str(folder)


def difference(folder):
    """How far a streamed model is from the one in memory."""
    rows = families.rows() + families.rows()[::-1]
    model = StreamedLM(folder)
    measured, judged = batches_of(rows, 2), batches_of(rows, 3)
    table, before = first_look(model, measured, judged)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = measure(whole, batches_of(rows, 2))
    after = streamed_perplexity(model, batches_of(rows, 3), {1, 2})
    assert table.count == expected.count == 4
    return max(
        np.nanmax(abs(table.distances - expected.distances)),
        np.nanmax(abs(table.errors - expected.errors)),
        abs(before / perplexity(whole, rows, 3) - 1),
        abs(after / perplexity(drop_layers(whole, {1, 2}), rows, 3) - 1),
    )


@pytest.mark.parametrize("kind", SOME)
def test_a_family_is_what_it_is_in_memory(kind, tmp_path):
    assert difference(saved(kind, tmp_path)) < 1e-6


@pytest.mark.slow
def test_every_family_is_right_or_refused():
    refused = set()
    for kind in right_families():
        with tempfile.TemporaryDirectory() as folder:
            try:
                assert difference(saved(kind, folder)) < 1e-5, kind
            except TypeError as error:
                assert "leave out --stream" in str(error)
                refused.add(kind)
    assert refused == REFUSED


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_is_refused(kind, tmp_path):
    with pytest.raises(TypeError, match=f"{kind}|layer 0.*leave out --stream"):
        difference(saved(kind, tmp_path))


def test_what_a_family_adds_between_its_layers_is_seen(tmp_path, monkeypatch):
    """Were streams mixed on their way, the pass without layers would differ."""
    folder, instead = saved("qwen2", tmp_path), walk._instead

    def mixed(index, change, more):
        forward = instead(index, change, more)
        return lambda h_BQD, **options: forward(h_BQD, **options) + (index == 2)

    monkeypatch.setattr(walk, "_instead", mixed)
    with pytest.raises(TypeError, match="from one layer to the next"):
        StreamedLM(folder)


@pytest.mark.parametrize("how", ["whole", "sharded", "base", "bin", "half"])
def test_any_files_will_do(how, tmp_path, legacy_bin):
    folder = tmp_path / "m"
    source = make_decoder("qwen2", folder)
    if how == "sharded":
        model = AutoModelForCausalLM.from_pretrained(source)
        model.save_pretrained(folder, max_shard_size="20KB")
        (folder / "model.safetensors").unlink()
        assert len(list(folder.glob("model-*.safetensors"))) > 3
    if how == "base":
        AutoModelForCausalLM.from_pretrained(source).model.save_pretrained(
            folder
        )
    if how == "bin":
        legacy_bin(folder)
    if how == "half":
        model = AutoModelForCausalLM.from_pretrained(source).bfloat16()
        model.save_pretrained(folder)
    # Halves are converted while they are read.
    assert difference(source) < 1e-6


@pytest.fixture
def legacy_bin():
    """A function that exchanges a folder's weights for a .bin file."""

    def exchange(folder):
        model = AutoModelForCausalLM.from_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return exchange


@torch.no_grad()
def test_half_precision_is_as_in_memory(source):
    rows = [torch.arange(3, 9), torch.arange(9, 20), torch.arange(2, 7)]
    model = StreamedLM(source, "bfloat16")
    table, _ = first_look(model, batches_of(rows, 2))
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    expected = measure(whole, batches_of(rows, 2))
    np.testing.assert_array_equal(table.distances, expected.distances)


def test_a_layer_without_weights_does_not_run(source):
    """Whoever forgets that it is streamed gets an error, not figures."""
    model = StreamedLM(source)
    with pytest.raises(Exception, match="meta"), torch.no_grad():
        last_states(model.lm, input_ids=torch.tensor([[3, 4]]))


def test_each_layer_is_read_once(source, monkeypatch):
    read, loading = [], Parts.layer

    def counted(self, index):
        read.append(index)
        return loading(self, index)

    monkeypatch.setattr(Parts, "layer", counted)
    model = StreamedLM(source)
    rows = [torch.arange(3, 9 + n) for n in range(6)]
    first_look(model, batches_of(rows, 2), batches_of(rows, 1))
    assert read == list(range(model.num_layers))


def test_streams_that_are_too_many_lie_in_files(source):
    rows = [torch.arange(3, 9 + n) for n in range(6)]
    model = StreamedLM(source)
    expected, _ = first_look(model, batches_of(rows, 2))
    model.room = Room(0)
    table, _ = first_look(model, batches_of(rows, 2))
    assert model.room.folder is not None
    np.testing.assert_array_equal(table.distances, expected.distances)


def test_rules_choose_as_in_memory(source):
    torch.manual_seed(3)
    rows = [torch.randint(3, 20, (6 + n % 5,)) for n in range(20)]
    found = []
    for stream in (False, True):
        model = load_text_model(source, stream=stream)
        found.append(compare_rules(model, rows, [1, 2, 3], batch_size=4))
    one, other = found
    assert set(other["left_out"]) == {"map-run", "map-greedy"}
    one["plans"] = [
        p for p in one["plans"] if p["rule"] not in found[1]["left_out"]
    ]
    assert {p["rule"] for p in other["plans"]} == set(RULES) - {
        "map-run",
        "map-greedy",
    }
    for a, b in zip(one["plans"], other["plans"], strict=True):
        for key in ("rule", "removed", "rows", "layer_passes"):
            assert a[key] == b[key], (a, b)
        assert a["perplexity"] == pytest.approx(b["perplexity"], rel=1e-5)


def test_the_command_says_when_it_streams(
    capsys, tmp_path, source, monkeypatch
):
    text = tmp_path / "lines.txt"
    text.write_text("one two three\nred blue\nseven four\na cat\n" * 3)
    tables, said = [], []
    words = ["measure", source, "--text", text, "--output", tmp_path / "t"]
    for more, free in (([], 1 << 40), (["--stream"], 1 << 40), ([], 1000)):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        code, _, err = speechllm(capsys, *words, *more)
        assert code == 0
        tables.append(RedundancyTable.load(str(tmp_path / "t")).distances)
        said.append(err)
    assert said[:2] == ["", ""] and "reading a layer at a time" in said[2]
    for table in tables[1:]:
        np.testing.assert_allclose(table, tables[0], rtol=0, atol=1e-6)


def test_free_memory_is_what_a_container_may_take(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    assert memory.free_memory() > 1 << 50
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable: 9000 kB\n")
    assert memory.free_memory() == 9000 * 1024
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nfile 3000000\n")
    assert memory.free_memory() == 4_000_000
    assert memory.fits(3_000_000) and not memory.fits(3_900_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() == 9000 * 1024


PEAK = """
import sys, torch
from speechllm.streamed.score import first_look
from speechllm.streamed.walk import StreamedLM
from speechllm.text_lm import batches_of
def peak():
    # Not ru_maxrss, which begins with that of the process that started this.
    with open("/proc/self/status") as stream:
        return int(stream.read().split("VmHWM:")[1].split()[0]) / 1024
def run(folder):
    model = StreamedLM(folder, "bfloat16")
    rows = [torch.arange(3, 20)] * 8
    first_look(model, batches_of(rows, 4), batches_of(rows, 4))
run(sys.argv[1])
before = peak()
run(sys.argv[2])
print(peak() - before)
"""


def large(folder, layers=16):
    """A model of 16 layers with 12 MB each, in bfloat16."""
    model_class, config_class, *_ = KINDS["qwen2"]
    size = dict(
        hidden_size=512,
        intermediate_size=3200,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    model = model_class(config_class(**{**SIZES, **size, "vocab_size": 64}))
    model.bfloat16().save_pretrained(folder)
    return str(folder)


def run_child(code, *words):
    """What a program in a process of its own prints last."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_memory_is_that_of_a_layer(source, tmp_path):
    folder = large(tmp_path / "large")
    megabytes = (tmp_path / "large/model.safetensors").stat().st_size / 2**20
    assert megabytes > 150
    assert float(run_child(PEAK, source, folder)) < 50
