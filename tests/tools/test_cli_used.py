"""The command line as someone uses it: words, pipes, faults told in time."""

import io
import json
import os
import sys

import numpy as np
import pytest
import soundfile
import torch
from exported import RATE, make_run, write_wav

from speechbrain_ext.layers.rules import RULES, Rule
from speechllm import cli, device, pipes
from speechllm.cli.layers import RULE_NAMES
from speechllm.cli.subtitles import FORMATS
from speechllm.exported import vad
from speechllm.exported.transcribe import Piece, Transcript
from speechllm.text_rules import lasting, passes_of, usual_sizes

LINES = ["one two three", "red blue", "a cat and a dog", "seven four"] * 3


def speechllm(capsys, *words):
    """Exit code, standard output and standard error of a command."""
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def lm(decoder_folders):
    """A tiny causal LM of five layers."""
    return decoder_folders["qwen2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, decoder_folders, encoder_folders):
    """An exported folder."""
    top = tmp_path_factory.mktemp("used")
    run = make_run(
        top / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    words = ["export", run, "--output", str(top / "model"), "--json"]
    assert cli.main(words) == 0
    return str(top / "model")


@pytest.fixture
def text(tmp_path):
    """A text file for the tiny tokenizers (str)."""
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return str(path)


@pytest.fixture
def stdin(monkeypatch):
    """Puts bytes on standard input."""

    def put(content):
        stream = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stream)

    return put


# ----------------------------------------------------------------------------
# rules


def test_the_words_of_rules_are_the_rules():
    assert RULE_NAMES == list(RULES)


def test_usual_sizes():
    assert usual_sizes(28) == [3, 7, 9, 14]
    assert usual_sizes(5) == [1, 2] and usual_sizes(2) == [1]
    assert passes_of(RULES["even"], 12, [1, 3]) == 0
    assert passes_of(RULES["angular"], 12, [1, 3]) == 12
    few, many = (passes_of(RULES["greedy-layers"], 12, [n]) for n in (1, 6))
    assert 12 < few < many
    assert [lasting(s) for s in (0.1, 600, 7200)] == ["1 s", "10 min", "2.0 h"]


def test_rules_tell_what_they_do_and_outlive_one_that_fails(
    capsys, tmp_path, lm, text, monkeypatch
):
    def broken(model, data, size):
        raise RuntimeError("out of something")

    fault = Rule("deepest", broken, "the broken one", needs=None)
    monkeypatch.setitem(RULES, "deepest", fault)
    file = tmp_path / "rules.json"
    words = ["rules", lm, "--text", text, "--output", file]
    words += "--rule deepest --rule even --rule map-run".split()
    code, said, err = speechllm(capsys, *words)
    assert code == 3
    # First what cannot be, and how long the rest takes; then a line a plan.
    told = err.splitlines()
    assert "2 rules, 2 depths each: about" in told[0]
    assert "even: 1 of 5 layers, perplexity" in err
    assert "even: 2 of 5 layers, perplexity" in err
    assert "deepest: failed: RuntimeError: out of something" in err
    assert "map-run: left out: needs" in err and "give more lines" in err
    report = json.loads(file.read_text())
    assert report["sizes"] == [1, 2]
    assert [plan["rule"] for plan in report["plans"]] == ["even", "even"]
    assert set(report["failed"]) == {"deepest"} and "| even | " in said


def test_rules_write_after_each_plan(capsys, tmp_path, lm, text, monkeypatch):
    file, seen = tmp_path / "rules.json", []

    def stops(model, data, size):
        if size == 2:
            seen.append(json.loads(file.read_text())["plans"])
            raise KeyboardInterrupt
        return data.plan(model, [0])

    monkeypatch.setitem(RULES, "even", Rule("even", stops, "", needs=None))
    words = ["rules", lm, "--text", text, "--output", file, "--rule", "even"]
    code, _, err = speechllm(capsys, *words, "--layers", 1, "--layers", 2)
    assert code == 130 and "Traceback" not in err
    assert len(seen[0]) == len(json.loads(file.read_text())["plans"]) == 1


# ----------------------------------------------------------------------------
# One word for one thing.


def test_prune_takes_what_rules_and_measure_gave(capsys, tmp_path, lm, text):
    rules, table = tmp_path / "rules.json", tmp_path / "table.json"
    words = [lm, "--text", text]
    names = "--rule even --rule deepest --layers 1,2".split()
    speechllm(capsys, "rules", *words, *names, "--output", rules)
    _, said, _ = speechllm(capsys, "info", rules)
    assert "kind: comparison of rules" in said and "even, 2 layers: 1" in said
    plans = json.loads(rules.read_text())["plans"]
    of_two = [one for one in plans if len(one["removed"]) == 2]
    best = min(of_two, key=lambda one: one["perplexity"])

    def removed(*more):
        words = ["prune", lm, "--output", tmp_path / "s", "--overwrite"]
        code, said, err = speechllm(capsys, *words, *more, "--json")
        assert code == 0, err
        return json.loads(said)["removed"]

    assert removed("--plan", rules, "--layers", 2) == best["removed"]
    even = ["--plan", rules, "--layers", 2, "--rule", "even"]
    assert removed(*even) == next(
        one["removed"] for one in of_two if one["rule"] == "even"
    )
    speechllm(capsys, "measure", *words, "--output", table)
    by_table = removed("--plan", table, "--layers", 2)
    _, said, _ = speechllm(capsys, "measure", *words, "--json")
    (tmp_path / "said.json").write_text(said)
    assert removed("--plan", tmp_path / "said.json", "--layers", 2) == by_table
    assert removed("--plan", "1-2") == [1, 2]
    assert removed("--plan", "1,3") == [1, 3]
    for more, words in (
        (["--plan", rules], "say how many layers to remove (--layers): 1, 2"),
        (["--plan", rules, "--layers", 3], "has plans of 1, 2 layers"),
        (["--plan", "none.json"], "there is no such file"),
        (["--plan", "1-2", "--layers", 2], "leave --layers and --rule out"),
        ([], "--layers N, or --plan FILE, 3-6 or 3,5,9"),
    ):
        out = ["--output", tmp_path / "other"]
        code, _, err = speechllm(capsys, "prune", lm, *out, *more)
        assert code in (1, 2) and words in " ".join(err.split()), err


def test_former_words_still_do_and_say_so(capsys, tmp_path, lm):
    words = ["prune", lm, "--output", tmp_path / "s", "--json"]
    code, said, err = speechllm(capsys, *words, "--drop", "1-2")
    assert code == 0 and json.loads(said)["removed"] == [1, 2]
    assert "--drop is called --plan now" in err
    assert "--drop" not in speechllm(capsys, "prune", "--help")[1]


def test_text_from_a_pipe(capsys, tmp_path, lm, text, stdin):
    _, from_file, _ = speechllm(capsys, "measure", lm, "--text", text, "--json")
    stdin(("\n".join(LINES) + "\n").encode())
    code, said, _ = speechllm(capsys, "measure", lm, "--text", "-", "--json")
    assert code == 0 and said == from_file
    # Shells give a pipe's name for <(...).
    read, write = os.pipe()
    os.write(write, "\n".join(LINES).encode())
    os.close(write)
    words = ["measure", lm, "--text", f"/dev/fd/{read}", "--json"]
    assert speechllm(capsys, *words)[:2] == (0, from_file)
    os.close(read)


def test_what_cannot_be_written_is_told_before_any_work(
    capsys, tmp_path, lm, text, model, monkeypatch
):
    monkeypatch.setattr(
        "speechllm.text_lm.load_text_model", lambda *a, **k: pytest.fail()
    )
    (tmp_path / "file").write_text("")
    gone = tmp_path / "gone" / "x.json"
    wav = write_wav(tmp_path / "a.wav")
    for words in (
        ["measure", lm, "--text", text, "--output", gone],
        ["measure", lm, "--text", text, "--picture", gone],
        ["measure", lm, "--text", text, "--picture", tmp_path / "a.doc"],
        ["rules", lm, "--text", text, "--output", gone],
        ["prune", lm, "--plan", "1", "--output", tmp_path / "file" / "x"],
        ["transcribe", wav, "--model", model, "--output", tmp_path / "file/x"],
        ["report", tmp_path, "--output", tmp_path / "file" / "x"],
    ):
        code, _, err = speechllm(capsys, *words)
        assert code == 2 and "--output" in err or "--picture" in err, words
        assert str(tmp_path) in err and "Traceback" not in err


def test_did_you_mean(capsys, lm, text):
    for words, meant in (
        (["mesure"], "measure"),
        (["measure", lm, "--txt", text], "--text"),
        (["measure", lm, "--text", text, "--dtype", "bfloat"], "bfloat16"),
        (["rules", lm, "--text", text, "--rule", "angulr"], "angular"),
        (["prune", lm, "--rule", "evn"], "even"),
        (["transcribe", "a.wav", "--format", "jsn"], "json"),
        (["measure", lm, "--text", text, "--device", "gpu"], "cuda"),
        (["measure", lm, "--text", text, "--device", "cdua"], "cuda"),
    ):
        code, _, err = speechllm(capsys, *words)
        said = err.lower().replace("'", "")
        assert code == 2 and "did you mean" in said, err
        assert meant in said.split("did you mean")[1]
    code, out, _ = speechllm(
        capsys, "measure", lm, "--text", text, "--dtype", "fp32", "--json"
    )
    assert code == 0


def test_messages_name_what_is_wrong(capsys, tmp_path, lm, text, model):
    wav = write_wav(tmp_path / "a.wav")
    if not torch.cuda.is_available():
        for words in (
            ["transcribe", wav, "--model", model],
            ["measure", lm, "--text", text],
        ):
            code, _, err = speechllm(capsys, *words, "--device", "cuda")
            assert code == 1 and "use cpu" in err and "export" not in err
    code, _, err = speechllm(
        capsys, "transcribe", tmp_path / "nofile.wav", "--model", model
    )
    assert code == 1 and "nofile.wav: no such file" in err
    assert "data_folder" not in err
    code, _, err = speechllm(capsys, "export", tmp_path, tmp_path / "x")
    assert code == 1 and "run_folder" not in err
    code, _, err = speechllm(
        capsys, "measure", "someone/no-such-model", "--text", text
    )
    assert (
        code == 1 and "someone/no-such-model" in err and "--device" not in err
    )


def test_the_best_device_is_chosen(monkeypatch):
    there = {"cuda": False, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(
        torch.backends.mps, "is_available", lambda: there["mps"]
    )
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert device.pick_device() == "mps"
    there["cuda"] = True
    assert device.pick_device() == "cuda"
    there.update(cuda=False, mps=False)
    assert device.pick_device() == "cpu"
    with pytest.raises(ValueError, match="no mps device.* use cpu"):
        device.pick_device("mps")
    with pytest.raises(ValueError, match="did you mean cuda"):
        device.pick_device("gpu")


# ----------------------------------------------------------------------------
# Pipes.


def test_a_reader_that_goes_costs_nothing(whole_study, tmp_path, monkeypatch):
    """`report | head -1`: all is written, and nothing is complained of."""
    out = tmp_path / "out"
    read, write = os.pipe()
    os.close(read)
    gone = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", gone)
    assert cli.main(["report", str(whole_study), "--output", str(out)]) == 0
    # What Python does at its end.
    gone.close()
    assert {"table.md", "summary.json", "report.html"} <= set(os.listdir(out))


def test_a_broken_pipe_is_quiet(monkeypatch):
    with pipes.reader_may_go():
        raise BrokenPipeError
    assert cli.guarded(lambda: (_ for _ in ()).throw(BrokenPipeError())) == 0


# ----------------------------------------------------------------------------
# transcribe


def test_forms_with_rows(capsys, tmp_path, model):
    files = [write_wav(tmp_path / f"{n} x.wav", 1.0, n) for n in (1, 2)]
    words = ["transcribe", *files, "--model", model, "--format"]
    code, said, _ = speechllm(capsys, *words, "jsonl")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 0 and [row["name"] for row in rows] == files
    _, said, _ = speechllm(capsys, *words, "tsv")
    head, *rows = (line.split("\t") for line in said.splitlines())
    assert head == ["name", "start", "end", "text"]
    assert [row[0] for row in rows] == files
    out = tmp_path / "out"
    speechllm(capsys, *words, "ctm", "--output", out)
    assert sorted(os.listdir(out)) == ["1 x.ctm", "2 x.ctm"]


def test_words_share_a_pieces_time_and_say_so():
    pieces = [Piece(1.0, 3.0, "ab abcdef"), Piece(3.0, 4.0)]
    one = Transcript("/x/talk one.wav", "asr", pieces)
    told, *rows = FORMATS["ctm"](one).splitlines()
    assert told.startswith(";;") and "not measured" in told
    assert rows == ["talk_one A 1.00 0.50 ab", "talk_one A 1.50 1.50 abcdef"]
    assert FORMATS["tsv"](one).endswith("\t1.000\t3.000\tab abcdef\n")
    assert repr(one) == "<Transcript of /x/talk one.wav, 4.0 s: 'ab abcdef'>"


def test_standard_input(capsys, tmp_path, model, stdin):
    path = write_wav(tmp_path / "a.wav")
    words = ["--model", model]
    _, from_file, _ = speechllm(capsys, "transcribe", path, *words)
    with open(path, "rb") as stream:
        content = stream.read()
    stdin(content)
    code, said, err = speechllm(capsys, "transcribe", "-", *words)
    assert (code, said) == (0, from_file), err
    assert speechllm(capsys, "transcribe", "-", "-", *words)[0] == 2


def test_silence_gives_no_words(capsys, tmp_path, model):
    silent = np.zeros(RATE, np.float32)
    path = tmp_path / "silence.wav"
    soundfile.write(path, silent, RATE)
    words = ["transcribe", path, "--model", model]
    code, said, _ = speechllm(capsys, *words)
    assert (code, said) == (0, "\n")
    _, said, _ = speechllm(capsys, *words, "--json")
    (found,) = json.loads(said)
    assert found["audio_seconds"] == 1.0 and found["tokens"] == 0
    assert speechllm(capsys, *words, "--stream")[1] == "\n"


def test_vad_keeps_what_is_spoken(monkeypatch):
    heard = [dict(start=4000, end=6000), dict(start=7000, end=7100)]
    heard += [dict(start=60000, end=60010)]
    monkeypatch.setattr(vad, "speech_finder", lambda: lambda wav, rate: heard)
    wav = torch.rand(80000)
    found = list(vad.stretches([(100, wav)], RATE, 8000, True))
    assert sum(len(part) for _, part, _ in found) == len(wav)
    assert torch.equal(torch.cat([part for _, part, _ in found]), wav)
    starts = [(start, len(part)) for start, part, on in found if on]
    # Near ones are one, and the last is long enough to be decoded.
    assert starts[0] == (100 + 800, 10300 - 800) and len(starts) == 2
    assert starts[1][1] == 8000


def test_vad_that_is_not_installed_says_how(monkeypatch):
    vad.speech_finder.cache_clear()
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ImportError, match=r"speechllm\[vad\]"):
        vad.speech_finder()


def test_silero_hears_no_speech_in_noise(capsys, tmp_path, model):
    pytest.importorskip("silero_vad")
    vad.speech_finder.cache_clear()
    threads = torch.get_num_threads()
    noise = np.random.default_rng(0).standard_normal(2 * RATE) * 0.01
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise.astype(np.float32), RATE)
    words = ["transcribe", path, "--model", model]
    assert speechllm(capsys, *words)[1].strip()
    code, said, err = speechllm(capsys, *words, "--vad")
    assert (code, said) == (0, "\n"), err
    assert torch.get_num_threads() == threads
