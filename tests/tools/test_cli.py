"""The command ``speechllm``, as typed.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recipe_scripts
import soundfile
import torch
from conftest import RECIPE
from encoded import cases, write_encoded
from exported import make_run, write_wav
from transformers import AutoModelForCausalLM, AutoTokenizer

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.rules import RULES, Rule
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.scores.words import wer
from speechllm import cli
from speechllm import text_lm as text_pruning
from speechllm.cli.subtitles import as_srt, as_vtt
from speechllm.cli.terminal import heatmap_lines
from speechllm.exported.transcribe import Piece, Transcript
from speechllm.text_lm import perplexity, read_rows, split_rows

REAL = os.environ.get("SPEECHLLM_REAL")
needs_real = pytest.mark.skipif(not REAL, reason="SPEECHLLM_REAL is not set")
LINES = ["one two three", "red blue", "a cat and a dog", "seven four"] * 3


def speechllm(capsys, *words):
    """Exit code, standard output and standard error of a command."""
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def model(tmp_path_factory, decoder_folders, encoder_folders):
    """An exported folder, made by the command."""
    top = tmp_path_factory.mktemp("cli")
    run = make_run(
        top / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    assert cli.main(["export", run, str(top / "model"), "--json"]) == 0
    return str(top / "model")


@pytest.fixture
def text(tmp_path):
    """A text file for the tiny tokenizers (str)."""
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(LINES) + "\n")
    return str(path)


def test_every_command_helps_with_examples(capsys):
    code, out, _ = speechllm(capsys, "--help")
    commands = re.findall(r"^  ([a-z]+)  ", out, re.M)
    assert code == 0 and len(commands) == len(cli.cli.commands)
    for command in commands:
        code, out, _ = speechllm(capsys, command, "--help")
        assert code == 0 and f"  speechllm {command} " in out
        words = " ".join(out.split())
        # What a word of the usage stands for is said.
        assert " MODEL" not in out or "MODEL is a folder or a hub id" in words


def test_wrong_usage_is_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPEECHLLM_MODEL", raising=False)
    for words in (["transcribe"], ["nonsense"], ["transcribe", "a.wav"]):
        code, _, err = speechllm(capsys, *words)
        assert code == 2 and err and "Traceback" not in err
    assert "which model? Give --model" in err


def test_transcribe_in_each_form(capsys, tmp_path, model):
    path = write_wav(tmp_path / "a.flac", 7.0)
    code, out, err = speechllm(capsys, "transcribe", path, "--model", model)
    text = out.rstrip("\n")
    assert code == 0 and text and err == ""
    words = ["transcribe", path, "--model", model]
    _, out, _ = speechllm(capsys, *words, "--json")
    (found,) = json.loads(out)
    assert found["text"] == text and found["audio_seconds"] == 7.0
    assert len(found["pieces"]) > 2 and found["tokens"] > 2
    _, out, _ = speechllm(capsys, *words, "--format", "srt")
    assert out.startswith("1\n00:00:00,000 --> 00:00:0")
    _, out, _ = speechllm(capsys, *words, "--format", "vtt")
    assert out.startswith("WEBVTT\n\n00:00:00.000 --> ")
    _, out, _ = speechllm(capsys, *words, "--stream")
    assert out == text + "\n"


def test_the_model_beside_or_of_the_environment(
    capsys, tmp_path, model, monkeypatch
):
    path = write_wav(tmp_path / "a.wav")
    monkeypatch.delenv("SPEECHLLM_MODEL", raising=False)
    monkeypatch.chdir(Path(model).parent)
    code, beside, _ = speechllm(capsys, "transcribe", path)
    assert code == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEECHLLM_MODEL", model)
    assert speechllm(capsys, "transcribe", path)[:2] == (0, beside)


def test_a_folder_of_recordings_into_a_folder(capsys, tmp_path, model):
    (tmp_path / "in").mkdir()
    for index, form in enumerate(("wav", "flac", "mp3", "ogg")):
        write_wav(tmp_path / f"in/{index}.{form}", 0.6, index)
    out = tmp_path / "out"
    for kind in ("a.m4a", "a.webm", "ogg.oga", "a.sph"):
        write_encoded(tmp_path / "in" / kind, kind, 1.0)
    write_encoded(tmp_path / "in" / "no-ending", "a.opus", 1.0)
    (tmp_path / "in" / "notes.txt").write_text("one two")
    (tmp_path / "in" / ".hidden").write_text("")
    words = ["transcribe", tmp_path / "in", "--model", model]
    code, _, err = speechllm(capsys, *words, "--format", "vtt", "--output", out)
    assert code == 0
    stems = ["0", "1", "2", "3", "a.m4a", "a.sph", "a.webm", "no-ending", "ogg"]
    assert sorted(os.listdir(out)) == [f"{stem}.vtt" for stem in stems]
    assert f"left out, no audio: {tmp_path}/in/notes.txt\n" in err
    code, _, err = speechllm(capsys, *words, "--format", "srt")
    assert code == 2 and "--output" in err


def test_some_files_fail(capsys, tmp_path, model):
    good = write_wav(tmp_path / "good.wav")
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    words = ["transcribe", good, bad, "--model", model]
    code, out, err = speechllm(capsys, *words)
    assert code == 3 and out.startswith(f"{good}\t") and str(bad) in err
    code, out, _ = speechllm(capsys, *words, "--json")
    assert code == 3 and "error" in json.loads(out)[1]
    code, _, err = speechllm(capsys, "transcribe", bad, "--model", model)
    assert code == 1 and err.startswith("Error: ")


def test_faults_are_a_line(capsys, tmp_path, model, text):
    path = write_wav(tmp_path / "a.wav")
    for words in (
        ["transcribe", path, "--model", tmp_path],
        ["transcribe", path, "--model", model, "--task", "none"],
        ["measure", tmp_path, "--text", text],
        ["measure", model, "--text", text],
        ["measure", model + "/backbone", "--text", tmp_path / "none.txt"],
        ["measure", model + "/encoders/tiny-encoder", "--text", text],
        ["info", tmp_path / "nothing"],
        ["export", tmp_path, tmp_path / "e"],
        ["compare", model, path],
        ["report", tmp_path / "nothing"],
        ["push", tmp_path, "a/b"],
    ):
        code, _, err = speechllm(capsys, *words)
        assert code == 1, (words, err)
        assert "Traceback" not in err and err.strip()
    code, out, _ = speechllm(capsys, "info", tmp_path / "nothing", "--json")
    assert code == 1 and "is not there" in json.loads(out)["error"]


def test_measure_prints_path_and_map(capsys, tmp_path, source, text):
    table = tmp_path / "table.json"
    words = ["measure", source, "--text", text, "--output", table]
    code, out, err = speechllm(capsys, *words)
    assert code == 0 and err == ""
    found = RedundancyTable.load(str(table))
    assert found.count == len(LINES) and found.num_layers == 5
    for block in found.path():
        assert f"{found.distances[block.size - 1, block.start]:.4f}" in out
    assert out.count("o") >= 4 and "angular distance" in out
    drawn = ("--picture", tmp_path / "map.png")
    _, out, _ = speechllm(capsys, *words, "--json", "--batch-size", 1, *drawn)
    content = json.loads(out)
    assert content["path"][0]["start"] == found.best(1).start
    assert (tmp_path / "map.png").stat().st_size
    one = RedundancyTable.load(str(table))
    assert abs(one.distances - found.distances)[0].max() < 1e-6


def test_the_maps_cells():
    table = RedundancyTable.from_pairs(
        *(torch.rand(6, 6).numpy() for _ in range(2)), 3
    )
    plain = heatmap_lines(table)
    assert [len(line) for line in plain[:5]] == [8, 10, 12, 14, 16]
    # One chosen block for each size but the largest.
    assert [line[6:].count("o") for line in plain[:5]] == [0, 1, 1, 1, 1]
    colours = heatmap_lines(table, colour=True)
    assert "\x1b[48;2;" in colours[0]
    plain_again = [re.sub(r"\x1b\[[0-9;]*m", "", c) for c in colours[:5]]
    assert [len(line) for line in plain_again] == [8, 10, 12, 14, 16]
    assert max(map(len, heatmap_lines(table, width=12)[:5])) == 11


def test_prune_gives_a_plain_smaller_model(
    capsys, tmp_path, source, text, caplog
):
    out = tmp_path / "smaller"
    words = ["prune", source, "--layers", 2, "--text", text, "--output", out]
    code, said, err = speechllm(capsys, *words)
    assert code == 0 and err == "" and "before" in said
    model, report = AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(model.model.layers) == model.config.num_hidden_layers == 3
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("one two", return_tensors="pt")["input_ids"]
    options = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
    a = model.generate(ids, **options)
    assert torch.equal(a, model.generate(ids, use_cache=False, **options))
    about = json.loads((out / "pruning.json").read_text())
    measured, held_out = split_rows(read_rows(text, tokenizer))
    assert about["held_out_rows"] == len(held_out) == 2
    assert about["measured_rows"] == len(measured) == 10
    assert about["perplexity_after"] == pytest.approx(
        perplexity(model, held_out), rel=1e-5
    )
    whole = AutoModelForCausalLM.from_pretrained(source)
    assert about["perplexity_before"] == pytest.approx(
        perplexity(whole, held_out, batch_size=1), rel=1e-5
    )
    code, _, err = speechllm(capsys, *words)
    assert code == 1 and "not empty" in err
    assert speechllm(capsys, *words, "--overwrite", "--json")[0] == 0
    words[words.index("--layers") + 1] = 5
    code, _, err = speechllm(capsys, *words, "--overwrite")
    assert code == 1 and "choose 1 to 4" in err
    assert sorted(os.listdir(tmp_path)) == ["lines.txt", "smaller"]


def test_prune_by_a_rule_leaves_holes(capsys, tmp_path, source, text):
    out = tmp_path / "spread"
    words = ["prune", source, "--layers", 2, "--text", text, "--output", out]
    code, said, _ = speechllm(capsys, *words, "--rule", "even")
    assert code == 0 and "Removed layers 1, 3 of 5 (rule even)." in said
    words += ["--overwrite", "--json", "--rule"]
    code, said, _ = speechllm(capsys, *words, "greedy-layers")
    report = json.loads(said)
    assert code == 0 and report["rule"] == "greedy-layers"
    # It was chosen by the loss on the very rows that were not held out.
    tokenizer = AutoTokenizer.from_pretrained(out)
    measured, _ = split_rows(read_rows(text, tokenizer))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert perplexity(model, measured) == pytest.approx(
        math.exp(report["value"]), rel=1e-5
    )
    code, _, err = speechllm(capsys, *words, "greedy-layer")
    assert code == 2 and "Did you mean greedy-layers?" in err


def test_rules_are_compared_as_prune_would_prune(
    capsys, tmp_path, source, text
):
    file = tmp_path / "rules.json"
    words = ["rules", source, "--text", text, "--layers", 2, "--layers", 3]
    code, said, _ = speechllm(
        capsys,
        *words,
        *"--rule even --rule greedy-layers".split(),
        "--output",
        file,
    )
    assert code == 0
    report = json.loads(file.read_text())
    found = {(p["rule"], len(p["removed"])): p for p in report["plans"]}
    assert list(found) == [
        (rule, size) for rule in ("even", "greedy-layers") for size in (2, 3)
    ]
    before = report["perplexity_before"]
    row = [found["even", size]["perplexity"] for size in (2, 3)]
    assert f"| even | {before:.2f} | {row[0]:.2f} | {row[1]:.2f} |" in said
    out = tmp_path / "smaller"
    words = ["prune", source, "--text", text, "--layers", 2, "--output", out]
    _, said, _ = speechllm(capsys, *words, "--rule", "greedy-layers", "--json")
    pruned = json.loads(said)
    same = found["greedy-layers", 2]
    assert same["removed"] == pruned["removed"]
    assert same["perplexity"] == pytest.approx(pruned["perplexity_after"])
    assert before == pytest.approx(pruned["perplexity_before"])


def test_a_rule_that_lacks_text_is_left_out(capsys, tmp_path, source, text):
    file = tmp_path / "rules.json"
    words = ["rules", source, "--text", text, "--layers", 2, "--output", file]
    code, said, err = speechllm(capsys, *words)
    assert code == 0
    report = json.loads(file.read_text())
    assert set(report["left_out"]) == {"map-run", "map-greedy"}
    assert {plan["rule"] for plan in report["plans"]} == (
        set(RULES) - set(report["left_out"])
    )
    assert "map-run: left out: " in err and "positions" in err
    [row] = [line for line in said.split("\n") if "map-run" in line]
    assert row.endswith(" | — |")
    # And all that there is to choose is nothing.
    code, said, err = speechllm(capsys, *words, "--rule", "map-run")
    assert code == 1 and "no rule could choose" in err and "positions" in err


def test_a_rule_takes_as_many_rows_as_it_needs(
    capsys, tmp_path, source, monkeypatch
):
    monkeypatch.setattr(text_pruning, "UTTERANCES", 10)
    path = tmp_path / "many.txt"
    path.write_text("\n".join(LINES * 10))
    out = tmp_path / "smaller"
    words = [source, "--text", path, "--layers", 2]
    rules = "--rule even --rule map-run".split()
    code, said, err = speechllm(capsys, "rules", *words, *rules)
    assert code == 0 and "left out" not in err
    [row] = [line for line in said.split("\n") if "map-run" in line]
    assert 10 < int(re.search(r"\((\d+) rows\)", row)[1]) < 96
    assert "layers chosen on 10 others" in said and "| even |" in said
    words += ["--output", out, "--rule", "map-run"]
    assert speechllm(capsys, "prune", *words)[0] == 0


def test_what_a_rule_found_is_told_before_the_next(
    capsys, tmp_path, source, text, monkeypatch
):
    def endless(model, data, size):
        raise KeyboardInterrupt

    own = Rule("deepest", endless, "for ever", needs=None)
    monkeypatch.setitem(RULES, "deepest", own)
    file = tmp_path / "rules.json"
    words = ["rules", source, "--text", text, "--layers", 2, "--output", file]
    words += "--rule even --rule deepest".split()
    code, said, _ = speechllm(capsys, *words)
    assert code == 130 and "| even | " in said
    [plan] = json.loads(file.read_text())["plans"]
    assert plan["rule"] == "even"


def test_perplexity_is_that_of_the_loss(source):
    lm = AutoModelForCausalLM.from_pretrained(source)
    rows = [torch.arange(3, 9), torch.arange(20, 24)]
    loss = sum(
        lm(input_ids=r[None], labels=r[None]).loss.item() * (len(r) - 1)
        for r in rows
    )
    expected = torch.tensor(loss / 8).exp().item()
    assert perplexity(lm, rows) == pytest.approx(expected, rel=1e-5)


def test_texts_that_cannot_be(tmp_path, decoder_folders, capsys):
    lm = decoder_folders["qwen2"]
    for content, words in (
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"\n \n", "no line of two tokens"),
    ):
        (tmp_path / "t.txt").write_bytes(content)
        code, _, err = speechllm(
            capsys, "measure", lm, "--text", tmp_path / "t.txt"
        )
        assert code == 1 and words in err
    (tmp_path / "t.txt").write_text("one two " * 300)
    rows = read_rows(
        str(tmp_path / "t.txt"), AutoTokenizer.from_pretrained(lm), 64
    )
    assert len(rows) > 5 and max(map(len, rows)) == 64


def test_lines_end_at_line_feeds_alone(tmp_path, decoder_folders):
    tokenizer = AutoTokenizer.from_pretrained(decoder_folders["qwen2"])
    plain, odd = tmp_path / "plain.txt", tmp_path / "odd.txt"
    plain.write_text("one two\nthree four\n")
    odd.write_bytes("\ufeffone two\r\nthree four\n".encode())
    rows = [read_rows(str(path), tokenizer) for path in (plain, odd)]
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
    odd.write_bytes("one\x0ctwo\x85three\u2028four\rfive\n".encode())
    assert len(read_rows(str(odd), tokenizer)) == 1


def test_subtitles():
    long = " ".join(["word"] * 40)
    pieces = [Piece(0.0, 3599.5, "a < b"), Piece(3599.5, 3605.5, long)]
    one = Transcript("x", "asr", pieces)
    srt = as_srt(one).split("\n\n")
    assert srt[0] == "1\n00:00:00,000 --> 00:59:59,500\na < b"
    assert len(srt) == 5 and "01:00:05,500" in srt[3]
    assert max(len(line) for cue in srt for line in cue.split("\n")) <= 42
    said = " ".join(" ".join(cue.split("\n")[2:]) for cue in srt[1:-1])
    assert said == long
    assert "a &lt; b" in as_vtt(one) and "00:59:59.500" in as_vtt(one)


def test_info_of_each_kind(capsys, tmp_path, model, source, text):
    table = tmp_path / "t.json"
    speechllm(capsys, "measure", source, "--text", text, "--output", table)
    run = Path(model).parent / "run"
    for path, kind, words in (
        (model, "exported speech LLM", "test-clean WER 12.50"),
        (run, "run", "healing: both"),
        (table, "redundancy table", "4 layers"),
        (source, "Hugging Face model", "num_hidden_layers: 5"),
    ):
        code, out, _ = speechllm(capsys, "info", path)
        assert code == 0 and f"kind: {kind}" in out and words in out
        _, out, _ = speechllm(capsys, "info", path, "--json")
        assert json.loads(out)["kind"].startswith(kind)


def test_push_is_a_dry_run(capsys, model):
    code, out, _ = speechllm(capsys, "push", model, "someone/model")
    assert code == 0 and "Nothing was uploaded" in out


def test_quiet_as_a_command_of_its_own(tmp_path, model):
    path = write_wav(tmp_path / "a.wav")
    words = ["transcribe", path, "--model", model]
    done = subprocess.run(
        [sys.executable, "-m", "speechllm.cli", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_the_recipes_wer_to_the_utterance(
    capsys, tmp_path, corpus, decoder_folders, encoder_folders
):
    """Train and prune with the recipe, export, transcribe: the same texts."""
    options = recipe_scripts.quick(
        tmp_path, decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    options += [
        f"--data_folder={corpus}",
        "--valid_splits=[dev-clean]",
        "--test_splits=[test-clean, test-other]",
        "--max_new_tokens=20",
    ]
    recipe_scripts.train(RECIPE, "mini.yaml", options)
    recipe_scripts.train(RECIPE, "mini_prune.yaml", options)
    run = tmp_path / "mini_prune"
    assert speechllm(capsys, "export", run, tmp_path / "m")[0] == 0
    for split in ("test-clean", "test-other"):
        words = ["transcribe", f"{corpus}/{split}", "--json"]
        words += ["--model", tmp_path / "m", "--batch-size", 3]
        code, out, _ = speechllm(capsys, *words)
        assert code == 0
        texts = {Path(r["name"]).stem: r["text"] for r in json.loads(out)}
        rows = read_utterances(run / f"hypotheses-{split}.jsonl")
        assert texts == {row["id"]: row["hypothesis"] for row in rows}
        score = load_run(run).scores[split]
        pairs = [(row["reference"], texts[row["id"]]) for row in rows]
        assert wer(pairs) == pytest.approx(score.value)
        assert any(texts.values())
    both = [tmp_path / "mini", run]
    code, out, _ = speechllm(capsys, "compare", *both, "--json")
    assert code == 0, out
    found = json.loads(out)["runs"][0]["sets"]["test-clean"]
    # One speaker: no interval, and no difference is sure.
    assert (found["units"], found["low"], found["p_holm"]) == (1, None, 1)
    assert found["difference"] == pytest.approx(found["a"] - found["b"])
    tables = [str(tmp_path / "mini/redundancy-speech.json")] * 2
    code, out, _ = speechllm(capsys, "compare", *tables, "--json")
    assert code == 0 and json.loads(out)["mean_difference"] == 0
    code, out, _ = speechllm(capsys, "report", tmp_path, "--json")
    assert code == 0 and len(json.loads(out)["runs"]) == 2
    code, out, _ = speechllm(capsys, "report", tmp_path)
    assert code == 0 and (tmp_path / "table.md").is_file()


@needs_real
def test_a_real_llama(capsys, tmp_path):
    story = "once upon a time there was a little girl named lily. "
    lines = [f"{story}she had a {x}." for x in "cat dog ball hat cup".split()]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    lm = f"{REAL}/models/stories260K-llama"
    words = [lm, "--text", tmp_path / "t.txt", "--json"]
    code, out, _ = speechllm(capsys, "measure", *words)
    assert code == 0 and json.loads(out)["layers"] == 5
    words += ["--layers", 1, "--output", tmp_path / "s"]
    code, out, _ = speechllm(capsys, "prune", *words)
    assert code == 0
    about = json.loads(out)
    assert 1 < about["perplexity_before"] < about["perplexity_after"]


def test_streamed_files_are_transcribed_to_their_end(capsys, model):
    names = ["talk_vbr_streamed.mp3", "talk_twice.mp3", "talk_streamed.flac"]
    if not cases(names[0]):
        pytest.skip("SPEECHLLM_CASES names no folder with them")
    files = [cases(name) for name in names]
    words = ["transcribe", *files, "--model", model, "--json"]
    code, out, _ = speechllm(capsys, *words)
    assert code == 0
    lengths = [one["audio_seconds"] for one in json.loads(out)]
    assert lengths == pytest.approx([15.3, 30.5, 15.2], abs=0.1)


@needs_real
def test_real_recordings_in_every_format_and_rate(capsys, tmp_path):
    run = make_run(
        tmp_path / "run",
        f"{REAL}/models/stories260K-llama",
        f"{REAL}/models/whisper-tiny.en-encoder",
        kind="whisper",
    )
    assert speechllm(capsys, "export", run, tmp_path / "m")[0] == 0
    flac = sorted(Path(REAL, "LibriSpeech/test-clean").rglob("*.flac"))[0]
    wav, _ = soundfile.read(flac, dtype="float32")
    files = [flac]
    for form, rate in (("wav", 44100), ("mp3", 22050), ("ogg", 8000)):
        path = tmp_path / f"{rate}.{form}"
        from speechbrain_ext.data.audio import resampler

        other = resampler(16000, rate)(torch.from_numpy(wav))
        soundfile.write(path, torch.stack([other] * 2, 1).numpy(), rate)
        files.append(path)
    words = [*files, "--model", tmp_path / "m", "--json"]
    words += ["--piece-seconds", 20]
    code, out, _ = speechllm(capsys, "transcribe", *words)
    assert code == 0
    lengths = [one["audio_seconds"] for one in json.loads(out)]
    assert max(lengths) - min(lengths) < 0.1
    assert all(one["tokens"] for one in json.loads(out))
