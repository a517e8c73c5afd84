"""A backbone as GGUF: what stands in the file, and that llama.cpp runs it."""

import json
import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import WORDS, make_decoder
from exported import make_run
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from speechbrain_ext.layers.converting import read_head
from speechllm.cli import main
from speechllm.cli.folders import export
from speechllm.export.gguf_file import rope_factors, write_gguf
from speechllm.export.gguf_vocab import PRE, read_vocabulary

gguf = pytest.importorskip("gguf")

# A folder of a Llama or Qwen2 kind of LM to try, such as SmolLM2-135M.
REAL_LM = os.environ.get("SPEECHLLM_LM")
MINI = Path(__file__).parents[2] / "speechllm/mini_world/models"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
PROMPTS = [
    "One two three four five",
    "the dog and the cat",
    "once upon a time there was",
    "Hello, my name is",
    "she said: don't!",
    "In 1969 people",
    "def add(a, b):\n    ",
    "a list:\n- red\n- green\n-",
    "Grüße aus Köln, été",
    "seven   blue  cats",
]


def value(reader, key):
    """What a GGUF file says under a key."""
    return reader.get_field(key).contents()


def pruned(source, drop, folder):
    """The packaged model without some layers, by the command line (str)."""
    words = ["prune", str(source), "--drop", drop, "--output", str(folder)]
    assert main(words) == 0
    return str(folder)


def stored(folder):
    """All tensors of a saved model by name, float32."""
    heads = [
        read_head(str(file)) for file in Path(folder).glob("*.safetensors")
    ]
    return {n: p.read(torch.float32) for head in heads for n, p in head.items()}


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_file_says_what_was_pruned(kind, tmp_path):
    source = pruned(MINI / f"mini-{kind}", "3-5", tmp_path / "small")
    report = write_gguf(source, str(tmp_path / "a.gguf"))
    assert report["layers"] == 9
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert value(reader, "general.architecture") == kind
    assert value(reader, f"{kind}.block_count") == 9
    assert value(reader, f"{kind}.attention.head_count_kv") == 2
    assert value(reader, f"{kind}.rope.freq_base") == 10000.0
    tokens = value(reader, "tokenizer.ggml.tokens")
    assert len(tokens) == 768 and tokens[0] == "<|endoftext|>"
    tensors = {one.name: one for one in reader.tensors}
    weights = stored(source)
    assert "output.weight" not in tensors and len(tensors) == len(weights)
    # Not permuted where llama.cpp turns values as Hugging Face does.
    for name, part in (("q_proj", "attn_q"), ("k_proj", "attn_k")):
        theirs = weights[f"model.layers.8.self_attn.{name}.weight"]
        ours = torch.tensor(tensors[f"blk.8.{part}.weight"].data).float()
        heads = 4 if name == "q_proj" else 2
        if kind == "llama":
            # Value 2 i of a head is i of theirs, 2 i + 1 is i + half.
            half = theirs.view(heads, 2, 16, 128)
            ours = ours.view(heads, 16, 2, 128)
            assert torch.equal(ours[:, :, 1], half[:, 1])
        else:
            assert torch.equal(ours, theirs)
    norm = tensors["blk.8.attn_norm.weight"]
    assert norm.data.dtype == np.float32


def test_eight_bits_are_near(tmp_path):
    source = MINI / "mini-llama-8"
    write_gguf(str(source), str(tmp_path / "a.gguf"), "q8_0")
    sizes = {}
    for kind in ("f16", "q8_0"):
        path = str(tmp_path / "a.gguf")
        sizes[kind] = write_gguf(str(source), path, kind, True)["bytes"]
    assert sizes["q8_0"] < 0.6 * sizes["f16"]
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    (one,) = [t for t in reader.tensors if t.name == "blk.0.ffn_up.weight"]
    values = gguf.quants.dequantize(one.data, one.tensor_type)
    theirs = stored(source)["model.layers.0.mlp.up_proj.weight"].numpy()
    off = np.abs(values - theirs).max()
    assert 0 < off <= np.abs(theirs).max() / 127


def test_an_export_leaves_a_file_beside(
    tmp_path, decoder_folders, encoder_folders, capsys
):
    run = make_run(
        tmp_path / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    folder = str(tmp_path / "mine")
    assert main(["export", run, folder, "--gguf", "f16"]) == 0
    said = capsys.readouterr()
    assert "mine-f16.gguf: 3 layers, f16" in said.out
    assert "adapter" in said.err.split("not in it:")[1]
    reader = gguf.GGUFReader(f"{folder}-f16.gguf")
    assert value(reader, "qwen2.block_count") == 3
    # Of an export that is there already, by itself; f16 unless told.
    again = str(tmp_path / "again.gguf")
    assert main(["export", folder, again, "--gguf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "f16"
    assert Path(again).read_bytes() == Path(f"{folder}-f16.gguf").read_bytes()


def test_what_cannot_be_written_is_refused_first(
    tmp_path, decoder_folders, capsys
):
    source = str(decoder_folders["llama"])
    file = str(tmp_path / "a.gguf")
    for words, wanted in (
        ([source, str(tmp_path / "a")], "ends in .gguf"),
        ([source, str(tmp_path / "no/a.gguf")], "no such folder"),
        ([source, source, file], "takes one model"),
    ):
        assert main(["export", *words, "--gguf", "f16"]) != 0
        assert wanted in capsys.readouterr().err
    write_gguf(source, file)
    with pytest.raises(ValueError, match="--overwrite"):
        write_gguf(source, file)
    odd = make_decoder(
        "llama",
        tmp_path / "odd",
        rope_parameters=YARN,
    )
    with pytest.raises(ValueError, match="rotary embedding is of the kind"):
        write_gguf(odd, str(tmp_path / "b.gguf"))
    torn = make_decoder("qwen2", tmp_path / "torn")
    config = json.loads((Path(torn) / "config.json").read_text())
    config["num_hidden_layers"] += 1
    config["layer_types"].append("full_attention")
    (Path(torn) / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="weights are missing"):
        write_gguf(torn, str(tmp_path / "b.gguf"))
    assert not list(tmp_path.glob("*b.gguf*"))


def test_a_tokenizer_without_a_name_is_refused(decoder_folders):
    tokenizer = AutoTokenizer.from_pretrained(decoder_folders["llama"])
    assert read_vocabulary(tokenizer, 290, "x").pre in PRE.values()
    with pytest.raises(ValueError, match="only 100 rows"):
        read_vocabulary(tokenizer, 100, "x")
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    told["pre_tokenizer"] = {"type": "Whitespace"}
    backend = Tokenizer.from_str(json.dumps(told))
    odd = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ValueError, match="no name in GGUF"):
        read_vocabulary(odd, 290, "x")


def test_llama3_frequencies(tmp_path):
    folder = make_decoder("llama", tmp_path / "lm", rope_parameters=LLAMA3)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    factors = rope_factors(lm.config)
    head = lm.config.head_dim
    steps = np.arange(0, head, 2) / head
    wanted = 500_000.0**-steps / lm.model.rotary_emb.inv_freq.numpy()
    assert np.allclose(factors, wanted, rtol=1e-5) and factors.max() > 7


def test_the_option_is_told(capsys):
    assert "--gguf" in CliRunner().invoke(export, ["--help"]).output


# ----------------------------------------------------------------------------
# llama.cpp itself.


def sentencepiece_like(folder):
    """A Llama 2 kind of tokenizer: bytes for what it does not know."""
    special = ["<unk>", "<s>", "</s>"]
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=special + spelled, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS), "red cats"] * 3, trainer)
    told = json.loads(tokenizer.to_str())
    # Bytes are no tokens of their own in a text.
    told["added_tokens"] = told["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(told))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)


def served(path):
    """A GGUF file, loaded by llama.cpp."""
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 256, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.warmup, settings.verbosity = False, 0
    return xllamacpp.Server(settings)


def ask(server, what, **content):
    """What llama.cpp's own server answers."""
    request = urllib.request.Request(
        f"{server.listening_address}/{what}",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def gaps(source, path, tokens=16):
    """For each prompt 0 where both go on alike, else how near a tie it was.

    That is by how much, in float32, llama.cpp's first other token scores less
    than transformers'; infinite where they do not even read alike.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    lm = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
    exact = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    stop = {tokenizer.eos_token_id, lm.generation_config.eos_token_id}
    server, found = served(path), []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            said = (
                lm.eval()
                .generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=0,
                )[0, ids.shape[1] :]
                .tolist()
            )
        ours = ask(
            server,
            "completion",
            prompt=prompt,
            n_predict=tokens,
            temperature=0,
            return_tokens=True,
            cache_prompt=False,
        )
        read = ask(server, "tokenize", content=prompt, add_special=True)
        ours, theirs = (
            [token for token in each if token not in stop]
            for each in (ours, said)
        )
        if read != ids[0].tolist():
            found.append(float("inf"))
        elif ours == theirs:
            found.append(0.0)
        else:
            found.append(_gap(exact, ids[0].tolist(), ours, theirs))
    return found


def _gap(lm, ids, ours, theirs):
    """By how much the first other token scores less."""
    same = len(os.path.commonprefix([ours, theirs]))
    if same == min(len(ours), len(theirs)):
        return float("inf")
    with torch.no_grad():
        logits = lm(torch.tensor([ids + theirs[:same]])).logits[0, -1]
    return abs(float(logits[theirs[same]] - logits[ours[same]]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_llama_cpp_says_the_same(kind, tmp_path):
    for drop in ("3-5", "2,7"):
        source = pruned(MINI / f"mini-{kind}", drop, tmp_path / drop)
        path = tmp_path / f"{drop}.gguf"
        write_gguf(source, str(path))
        assert gaps(source, path) == [0.0] * len(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama3", "yarn", "sentencepiece", "bias"])
def test_llama_cpp_reads_every_kind(case, tmp_path):
    kind = "qwen2" if case == "yarn" else "llama"
    changes = {
        "llama3": {"rope_parameters": LLAMA3},
        "yarn": {"rope_parameters": YARN, "max_position_embeddings": 128},
        "sentencepiece": {},
        "bias": {"attention_bias": True},
    }[case]
    source = make_decoder(kind, tmp_path / "lm", **changes)
    torch.manual_seed(2)
    lm = AutoModelForCausalLM.from_pretrained(source)
    if case == "sentencepiece":
        lm.resize_token_embeddings(400)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (Path(source) / name).unlink()
        sentencepiece_like(source)
    if case == "bias":
        for name, one in lm.named_parameters():
            if name.endswith(".bias"):
                one.data.normal_(std=0.5)
    lm.save_pretrained(source)
    write_gguf(source, str(tmp_path / "a.gguf"))
    # Random weights: 8 tokens, before rounding can tell near ties apart.
    assert gaps(source, tmp_path / "a.gguf", tokens=8) == [0.0] * 10


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not REAL_LM, reason="SPEECHLLM_LM names no folder of an LM")
def test_a_real_model_whole_and_pruned(tmp_path, capsys):
    layers = AutoConfig.from_pretrained(REAL_LM).num_hidden_layers
    first = 2 * layers // 3
    small = pruned(REAL_LM, f"{first}-{first + 5}", tmp_path / "small")
    for source in (REAL_LM, small):
        write_gguf(source, str(tmp_path / "a.gguf"), overwrite=True)
        found = gaps(source, tmp_path / "a.gguf")
        with capsys.disabled():
            print(f"\n{os.path.basename(source)}: {found.count(0.0)} of 10")
        # Ties within float16's rounding of a logit of 30, no more.
        assert found.count(0.0) >= 8 and max(found) < 0.05
