"""An export does what its run does, or is not called done.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_decoder
from exported import make_lora_baseline, make_run, speech_like
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import speechbrain_ext
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.export import hub, write
from speechllm.export.hub import push
from speechllm.export.verify import MERGED
from speechllm.export.write import export_runs
from speechllm.exported.format import ExportError
from speechllm.exported.model import ExportedSpeechLLM

CASES = [
    # kind, tied, dtype, merge, shards
    ("qwen2", True, "float32", False, "5GB"),
    ("qwen2", True, "float32", True, "20KB"),
    ("qwen2", False, "bfloat16", False, "20KB"),
    ("qwen2", False, "bfloat16", True, "5GB"),
    ("qwen2", True, "bfloat16", False, "5GB"),
    ("qwen2", False, "float32", True, "5GB"),
    ("llama", True, "float32", False, "20KB"),
    ("llama", True, "bfloat16", True, "5GB"),
    ("llama", False, "float32", True, "20KB"),
    ("llama", False, "bfloat16", False, "5GB"),
]


def quietly(*arguments, **options):
    """An export that tells nobody what it does."""
    return export_runs(*arguments, tell=lambda line: None, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory, decoder_folders, encoder_folders):
    """Folder of one finished, pruned and healed run."""
    return make_run(
        tmp_path_factory.mktemp("run") / "asr",
        decoder_folders["qwen2"],
        encoder_folders["wavlm"],
    )


@pytest.mark.parametrize("kind, tied, dtype, merge, shards", CASES)
def test_round_trip(
    kind, tied, dtype, merge, shards, tmp_path, encoder_folders
):
    source = make_decoder(kind, tmp_path / "lm", tie_word_embeddings=tied)
    precision = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    run = make_run(
        tmp_path / "run",
        source,
        encoder_folders["wavlm"],
        dtype=dtype,
        eval_precision=precision,
    )
    folder = str(tmp_path / "exported")
    report = quietly([run], folder, merge=merge, shard_size=shards)
    found = report["differences"]["asr"]
    exact = max(found["logits_NV"], found["lm_logits_QV"]) == 0
    assert exact != merge
    files = os.listdir(f"{folder}/backbone")
    assert ("model.safetensors.index.json" in files) == (shards == "20KB")

    # transformers and PEFT alone, against the run loaded as a run.
    backbone = AutoModelForCausalLM.from_pretrained(f"{folder}/backbone")
    assert backbone.config.num_hidden_layers == len(backbone.model.layers) == 3
    assert backbone.dtype == getattr(torch, dtype)
    backbone.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert len(again.model.layers) == 3
    adapter = f"{folder}/tasks/asr/adapter"
    lm = backbone if merge else PeftModel.from_pretrained(backbone, adapter)
    ours = TrainedRun(run).load()
    ids = AutoTokenizer.from_pretrained(f"{folder}/backbone")(
        "one two three red", return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        a, b = lm(input_ids=ids).logits, ours.decoder.lm(input_ids=ids).logits
    allowed = MERGED[a.dtype] if merge else 0
    assert (a - b).abs().max() <= allowed * b.abs().max()


@pytest.mark.parametrize(
    "strategy, merge",
    [("both", False), ("everywhere", False), ("none", False), ("both", True)],
)
def test_a_baselines_adapter_goes_along(
    strategy, merge, tmp_path, decoder_folders, encoder_folders
):
    """Beside the weights, in bfloat16 too; PEFT alone gives the same."""
    source = decoder_folders["qwen2"]
    baseline = make_lora_baseline(tmp_path / "lora", source)
    options = dict(dtype="bfloat16", eval_precision="bf16", strategy=strategy)
    options["baseline"] = baseline
    encoder = encoder_folders["wavlm"]
    run = make_run(tmp_path / "run", source, encoder, **options)
    folder = tmp_path / "exported"
    found = quietly([run], str(folder), merge=merge)["differences"]["asr"]
    assert (found["logits_NV"] == 0) != merge
    assert merge or strategy == "everywhere" or found["lm_logits_QV"] == 0
    task = folder / "tasks/asr"
    assert (task / "baseline_adapter").is_dir() != merge
    ours = TrainedRun(run).load()
    with torch.no_grad():
        ids = torch.arange(4, 12)[None]
        wanted = ours.decoder.lm(input_ids=ids).logits
        loaded = (
            ExportedSpeechLLM.from_pretrained(str(folder)).use("asr").decoder.lm
        )
        gap = (loaded(input_ids=ids).logits - wanted).abs().max()
        assert gap <= (MERGED[torch.bfloat16] * wanted.abs().max()) * merge
    card = (folder / "README.md").read_text()
    assert ("stays beside the weights" in card) != merge
    if merge:
        return
    # The backbone is the source's own, unrounded.
    lm = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    pairs = [(0, 0), (1, 3), (2, 4)]
    for new, old in pairs:
        ours_, theirs = (m.model.layers for m in (lm, whole))
        a, b = ours_[new].self_attn.q_proj, theirs[old].self_attn.q_proj
        assert torch.equal(a.weight, b.weight)


def test_the_adapter_is_more_than_rounding(run, tmp_path):
    """What the round trip allows for a merge is less than the adapter does."""
    ours = TrainedRun(run).load()
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        healed = ours.decoder.lm(input_ids=ids).logits
        with ours.decoder.adapter.disable_adapter():
            bare = ours.decoder.lm(input_ids=ids).logits
    gap = (healed - bare).abs().max() / healed.abs().max()
    assert gap > 2 * MERGED[torch.bfloat16]


def test_features_of_earlier_caches_are_rounded(
    tmp_path, decoder_folders, encoder_folders
):
    """They were kept as halves; today's are kept as they are."""
    models = decoder_folders["qwen2"], encoder_folders["wavlm"]
    run = make_run(tmp_path / "run", *models, cache_features="features")
    quietly([run], str(tmp_path / "today"))
    file = Path(run) / "trained" / "system.json"
    system = json.loads(file.read_text())
    del system["window"]
    file.write_text(json.dumps(system))
    quietly([run], str(tmp_path / "before"))
    for name, dtype in (("today", None), ("before", "float16")):
        task = json.loads((tmp_path / name / "tasks/asr/task.json").read_text())
        assert task["features_dtype"] == dtype


def test_only_json_safetensors_and_plain_texts(run, tmp_path):
    quietly([run], str(tmp_path / "e"))
    files = [p for p in (tmp_path / "e").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".json", ".safetensors", ".md"}
    texts = [p.read_text() for p in files if p.suffix != ".safetensors"]
    # Nothing of this machine goes along.
    assert not any(str(tmp_path.parent) in text for text in texts)
    assert {oct(p.stat().st_mode & 0o044) for p in files} == {"0o44"}
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize("part", ["backbone", "projector", "adapter"])
def test_a_difference_fails_and_leaves_nothing(
    part, run, tmp_path, monkeypatch
):
    from safetensors.torch import load_file, save_file

    names = {
        "backbone": "backbone/model.safetensors",
        "projector": "tasks/asr/projector.safetensors",
        "adapter": "tasks/asr/adapter/adapter_model.safetensors",
    }
    honest = write._write_heads

    def spoil(out, *rest):
        path = f"{out}/{names[part]}"
        state = load_file(path)
        name = sorted(n for n in state if n.endswith("weight"))[-1]
        state[name] = state[name] * 1.01
        save_file(state, path, metadata={"format": "pt"})
        honest(out, *rest)

    monkeypatch.setattr(write, "_write_heads", spoil)
    with pytest.raises(ExportError, match="task asr differs .* logits"):
        quietly([run], str(tmp_path / "e"))
    assert list(tmp_path.iterdir()) == []


def test_another_text_from_the_same_tokens_fails(run, tmp_path, monkeypatch):
    honest = write.reload_probes

    def other_tokenizer(*arguments):
        found = honest(*arguments)
        found["asr"].text += " and more"
        return found

    monkeypatch.setattr(write, "reload_probes", other_tokenizer)
    with pytest.raises(ExportError, match="its text, from the same tokens"):
        quietly([run], str(tmp_path / "e"))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(run, tmp_path, decoder_folders):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        quietly([run], str(tmp_path / "full"))
    with pytest.raises(ValueError, match="something else"):
        quietly([run], str(tmp_path / "full"), overwrite=True)
    with pytest.raises(FileNotFoundError, match="no trained system"):
        quietly([str(tmp_path)], str(tmp_path / "e"))
    with pytest.raises(ExportError, match="its task ASR is that of"):
        quietly([run, run], str(tmp_path / "e"))
    result = load_run(run)
    result.status = "failed"
    other = tmp_path / "failed"
    other.mkdir()
    os.symlink(f"{run}/trained", other / "trained")
    result.save(other)
    with pytest.raises(ExportError, match="its status is failed"):
        quietly([str(other)], str(tmp_path / "e"))


def test_two_tasks_on_one_backbone(
    run, tmp_path, decoder_folders, encoder_folders
):
    other = make_run(
        tmp_path / "ast",
        decoder_folders["qwen2"],
        encoder_folders["whisper"],
        task="AST en-de",
        kind="whisper",
        seed=9,
        speech_markers=True,
    )
    with pytest.raises(ExportError, match="merge: several tasks"):
        quietly([run, other], str(tmp_path / "m"), merge=True)
    report = quietly([run, other], str(tmp_path / "e"))
    assert report["tasks"] == ["asr", "ast_en_de"]
    model = ExportedSpeechLLM.from_pretrained(str(tmp_path / "e"))
    audio = (speech_like(1.0), 16000)
    alone = {}
    for name, folder in (("asr", run), ("ast_en_de", other)):
        quietly([folder], str(tmp_path / name))
        one = ExportedSpeechLLM.from_pretrained(str(tmp_path / name))
        alone[name] = one.transcribe(audio).text
    for _ in range(2):
        assert model.transcribe(audio).text == alone["asr"]
        assert model.translate(audio).text == alone["ast_en_de"]
    assert model.translate(audio).task == "ast_en_de"


def test_the_card_and_the_licence(tmp_path, encoder_folders):
    source = make_decoder("llama", tmp_path / "lm")
    head = "---\nlicense: llama3.2\nbase_model: x\n---\n# Card\n"
    Path(source, "README.md").write_text(head)
    Path(source, "LICENSE.txt").write_text("You may.")
    run = make_run(tmp_path / "run", source, encoder_folders["wavlm"])
    quietly([run], str(tmp_path / "e"))
    assert (tmp_path / "e/backbone/LICENSE.txt").read_text() == "You may."
    card = (tmp_path / "e/README.md").read_text()
    _, head, body = card.split("---\n", 2)
    wheel = f"speechllm-{speechbrain_ext.__version__}-py3-none-any.whl"
    assert f"\npip install {wheel}  # " in body
    head = yaml.safe_load(head)
    assert head["license"] == "llama3.2"
    metric = head["model-index"][0]["results"][0]["metrics"][0]
    assert metric == {"type": "wer", "value": 12.5, "name": "WER"}
    for words in (
        "layers 1-2 (counted from 0)",
        "| test-clean | 2 | WER 12.50 | 10.00 to 15.00 |",
        "angular distance of 0.1000 on 5 sequences of speech",
        "layers 0, 3-4",
        "llama3.2, holds",
    ):
        # A table's columns line up.
        assert words in re.sub(" +", " ", body)
    manifest = json.loads((tmp_path / "e/manifest.json").read_text())
    assert manifest["kept_layers"] == [0, 3, 4]
    assert "tasks/asr/projector.safetensors" in manifest["files"]


def test_overwriting_an_export(run, tmp_path):
    folder = str(tmp_path / "e")
    quietly([run], folder)
    quietly([run], folder, overwrite=True, licence="mit")
    assert "license: mit" in (tmp_path / "e/README.md").read_text()


def test_push_tells_and_only_then_does(run, tmp_path, monkeypatch):
    folder = str(tmp_path / "e")
    quietly([run], folder)
    calls = []

    class Api:
        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options["private"]))

        def upload_folder(self, **options):
            calls.append(sorted(options["allow_patterns"]))
            return "https://hub/someone/model"

    monkeypatch.setattr(hub, "HfApi", Api)
    report = push(folder, "someone/model")
    assert calls == [] and not report["uploaded"]
    assert push(folder, "someone/model", dry_run=False)["uploaded"]
    on_disk = [
        str(p.relative_to(folder))
        for p in Path(folder).rglob("*")
        if p.is_file()
    ]
    assert calls == [("someone/model", True), sorted(on_disk)]
    with pytest.raises(ExportError, match="cannot be a repository"):
        push(folder, "some one/model")
    Path(folder, "README.md").write_text("changed")
    with pytest.raises(ExportError, match="README.md"):
        push(folder, "someone/model", dry_run=False)


MEMORY = """
import sys, torch
from speechbrain_ext.layers import Block, load_pruned

def kib(name):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) for l in lines if l.startswith(name))

dtype = getattr(torch, sys.argv[3])
load_pruned(sys.argv[1], Block(1, 2), dtype=dtype)  # imports and caches
before = kib("VmRSS")
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")
model = load_pruned(sys.argv[2], Block(1, 4), dtype=dtype)
# A mapped weight counts when it is touched: touch them all.
touched = sum(float(p.detach().view(-1)[:: 256].sum()) for p in
              model.parameters())
kept = sum(p.numel() * p.element_size() for p in model.parameters())
print(kept, (kib("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_hardly_more_than_what_is_kept(
    dtype, tmp_path, decoder_folders
):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=6,
        num_attention_heads=8,
        vocab_size=256,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu").save_pretrained(tmp_path)
    del model
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, decoder_folders["llama"]]
        + [str(tmp_path), dtype],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, peak = map(int, done.stdout.split())
    assert kept > 50e6
    assert peak < 1.1 * kept
