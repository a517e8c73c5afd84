"""`make real`: its data, its graph, and all of it in miniature."""

import functools
import http.server
import itertools
import json
import random
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_own_data
import torch
import yaml
from recipe_scripts import load_script

from speechbrain_ext.data.own_forms import keyed
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.reading import load_runs
from speechbrain_ext.runs.result import RunResult, SetScore, load_run
from speechllm.report import recheck
from speechllm.report.committed import PACKED, STUDIES
from speechllm.report.pack import pack
from speechllm.report.study import standing
from speechllm.study.plan import PlanError, read_plan
from speechllm.study.state import status_of

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "workflow/config/real.yaml"
OWN = ROOT / "recipes/OwnData/ASR/SpeechLLM"
real_data = load_script(ROOT / "workflow", "real_data")
own_texts = load_script(ROOT / "workflow", "own_texts")
whisper_wer = load_script(OWN, "whisper_wer")


def option(run, key):
    return run.command[run.command.index(f"--{key}") + 1]


# -- the graph ------------------------------------------------------------------


def test_the_plan_has_what_the_study_is_to_show(tmp_path):
    plan = read_plan(CONFIG, results=str(tmp_path))
    kinds = Counter(run.kind for run in plan.runs.values())
    assert kinds == {
        "data": 1,
        "baseline": 4,
        "table": 6,
        "healed": 41,
        "check": 1,
        "timing": 2,
    }
    order = list(plan.runs)
    begin = ["data-real", "aligned-s1", "warmup-s1", "smollm2-s1"]
    assert order[:4] == begin
    assert order[-2:] == [n for n in order if n.startswith("timing-")]
    for name, before in (
        ("warmup-s1", "aligned-s1"),
        ("smollm2-s1", "warmup-s1"),
        ("smollm2-lora-s1", "warmup-s1"),
    ):
        run = plan.runs[name]
        assert run.needs == ["data-real", before]
        assert option(run, "start_from") == str(plan.run_folder(before))
    for depth in (3, 6, 9, 12):
        for healing in ("none-speech", "both-speech-k200"):
            assert f"smollm2-s1-n{depth}-{healing}" in order
    for depth in (6, 9):
        for healing in (
            *("projector-speech", "decoder-speech", "attention-speech"),
            *("spread-even", "spread-greedy-layers", "both-text"),
        ):
            assert f"smollm2-s1-n{depth}-{healing}-k200" in order
        assert f"smollm2-s1-n{depth}-map-map-greedy" in order
    for seed in (2, 3):
        for healing in ("both-speech", "spread-even", "spread-greedy-layers"):
            assert f"smollm2-s{seed}-n6-{healing}-k200" in order
    for depth in (3, 6):
        assert f"smollm2-lora-s1-n{depth}-both-speech-k200" in order
    # All that is tuned has as many trials, and none of them a test set.
    trials = [n for n in order if "-trial" in n]
    assert len(trials) == 10
    assert {option(plan.runs[n], "test_splits") for n in trials} == {"[]"}


def test_where_results_lie_is_not_part_of_a_run(tmp_path):
    plans = [read_plan(CONFIG, results=str(tmp_path / n)) for n in "ab"]
    for one, other in zip(*(plan.runs.values() for plan in plans)):
        assert (one.name, one.made) == (other.name, other.made)
    source = option(plans[0].runs["warmup-s1"], "backbone.source")
    assert source == str(tmp_path / "a/models/smollm2-135m")


def changed(tmp_path, change):
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    change(config)
    file = tmp_path / "real.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def test_what_training_starts_from_counts(tmp_path):
    before = read_plan(CONFIG, results=str(tmp_path)).runs

    def longer(config):
        config["systems"]["aligned"]["set_baseline"]["steps"] = 500

    after = read_plan(changed(tmp_path, longer), results=str(tmp_path)).runs
    started = ("warmup-s1", "smollm2-s1", "smollm2-s1-n3-none-speech")
    for name in ("aligned-s1", *started):
        assert before[name].made != after[name].made
    assert before["data-real"].made == after["data-real"].made

    def unknown(config):
        config["systems"]["smollm2"]["start"] = "cold"

    with pytest.raises(PlanError, match=r"smollm2\.start: cold: .*warmup"):
        read_plan(changed(tmp_path, unknown))


def test_make_real_takes_folders_or_the_hub():
    def told(*given):
        done = subprocess.run(
            ["make", "-n", "-o", ".venv/workflow", "real", "ARGS=--foo"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **dict(given)},
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr

    assert "config/real.yaml -n --foo" in told()
    text = (ROOT / "Makefile").read_text()
    for name in ("REAL_MODELS", "REAL_DATA"):
        assert f"real: export {name} := $({name})" in text


def test_neither_trials_nor_beginnings_stand_for_a_system():
    def run(name, start=None):
        configuration = {"start_from": start} if start else {}
        return RunResult(name, "one", configuration=configuration)

    runs = [run("warmup-s1"), run("one-s1", "/far/away/runs/warmup-s1/")]
    runs += [run("one-s1-trial2-both"), run("one-s1-n2-both-speech")]
    names = [one.name for one in standing(runs)]
    assert names == ["one-s1", "one-s1-n2-both-speech"]


# -- the data -------------------------------------------------------------------


def voice(file, index):
    """Half a second of speech, or of noise."""
    test_own_data.recording(file, 0.5, index)


def corpus(folder, speakers, first=0):
    """The corpus's layout: Kaldi folders whose audio lies beside them."""
    for split, start in (("train", first), ("test", first + speakers)):
        lines = {"wav.scp": [], "text": [], "utt2spk": []}
        for who in range(start, start + speakers):
            for index in range(2):
                name = f"{who:04d}{index}"
                place = f"WAVE/SPEAKER{who:04d}/{name}.WAV"
                voice(folder / place, who)
                lines["wav.scp"].append(f"{name}\t{place}")
                lines["text"].append(f"{name}\tSAY THE NUMBER {name}")
                lines["utt2spk"].append(f"{name} {who:04d}")
        (folder / split).mkdir()
        for name, own in lines.items():
            (folder / split / name).write_text("\n".join(own) + "\n")


def librispeech(folder):
    for split, name in (("train-clean-5", "7-8"), ("test-other", "9-1")):
        place = folder / split / name.replace("-", "/")
        voice(place / f"{name}-0000.flac", 3)
        words = " ".join(f"WORD{i}" for i in range(25))
        table = f"{name}-0000 {words}\n{name}-0001 LOST\n"
        (place / f"{name}.trans.txt").write_text(table)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders as REAL_DATA and, empty, REAL_MODELS name them."""
    folder = tmp_path_factory.mktemp("real")
    corpus(folder / "data/speechocean762", 5)
    librispeech(folder / "data/LibriSpeech")
    for name in real_data.MODELS:
        (folder / "models" / name).mkdir(parents=True)
    return folder


@pytest.fixture
def given(sources, monkeypatch):
    monkeypatch.setenv("REAL_DATA", str(sources / "data"))
    monkeypatch.setenv("REAL_MODELS", str(sources / "models"))
    return sources


SMALL = ["--valid=1", "--scored=3", "--synthetic=12", "--voices=3"]
SMALL += ["--written=0"]


def read_kaldi(folder):
    names = ("wav.scp", "text", "utt2spk")
    return [{k: v for k, (_, v) in keyed(folder / n).items()} for n in names]


def test_data_are_linked_cut_and_said(given, tmp_path):
    real_data.main([str(tmp_path), *SMALL, "--processes=1"])
    folder = tmp_path / "data/real"
    assert (tmp_path / "models/smollm2-135m").resolve() == (
        given / "models/smollm2-135m"
    )
    _, _, speakers = read_kaldi(folder / "loss")
    # The corpus has five test speakers, of whom three are scored.
    assert set(speakers.values()) == {"0008", "0009"}
    files, texts, _ = read_kaldi(folder / "libri")
    assert list(texts) == ["7-8-0000"]
    assert (folder / files["7-8-0000"]).is_file()
    assert list(read_kaldi(folder / "test-other")[1]) == ["9-1-0000"]
    files, texts, voices = read_kaldi(folder / "synthetic")
    assert len(texts) == 12 and len(set(voices.values())) == 3
    wave, rate = soundfile.read(folder / "synthetic" / files[min(files)])
    assert rate == 16000 and len(wave) > 4000 and np.abs(wave).max() > 0.1
    pieces = [text for text in texts.values() if "WORD" in text]
    assert all(len(text.split()) <= 10 for text in pieces) and pieces
    assert set(" ".join(set(pieces)).split()) == {f"WORD{i}" for i in range(25)}
    _, train, speakers = read_kaldi(folder / "train")
    said = {speakers[k] for k, text in train.items() if text in texts.values()}
    assert len(said) == 4
    assert not set(texts.values()) & set(
        read_kaldi(folder / "test")[1].values()
    )
    # The speaker that nothing is said of is the one that the recipe draws.
    kept = {"valid": 1, "test": None, "seed": 1}
    sets = test_own_data.prepare(
        folder, tmp_path / "manifests", ["train", "valid"], split=kept
    )
    (valid,) = {row["spk_id"] for row in sets["valid"].values()}
    assert valid not in said
    # Started again it says nothing anew.
    before = (folder / "synthetic/text").stat().st_mtime_ns
    real_data.main([str(tmp_path), *SMALL, "--processes=1"])
    assert (folder / "synthetic/text").stat().st_mtime_ns == before


def test_what_is_not_there_is_told(given, tmp_path, monkeypatch):
    monkeypatch.setenv("REAL_MODELS", str(tmp_path))
    with pytest.raises(SystemExit, match="not there: REAL_MODELS is a folder"):
        real_data.main([str(tmp_path / "out"), *SMALL])
    monkeypatch.setenv("REAL_MODELS", str(given / "models"))
    with pytest.raises(SystemExit, match="only 5 speakers"):
        real_data.main([str(tmp_path / "out"), *SMALL, "--scored=5"])


def test_the_decoder_writes_texts_in_the_manner_of_training(
    given, tmp_path, monkeypatch
):
    asked = []

    def lines_of(source, shown, rng):
        asked.append((Path(source).name, shown))
        yield from ("a new day", *shown, "A. Name", "one", "a new day")
        yield from ("it's the end", "too late")

    monkeypatch.setattr(own_texts, "lines_of", lines_of)
    monkeypatch.setitem(sys.modules, "own_texts", own_texts)
    words = [*SMALL, "--written=2", "--synthetic=40", "--processes=1"]
    for _ in range(2):
        real_data.main([str(tmp_path), *words])
    said = {*read_kaldi(tmp_path / "data/real/synthetic")[1].values()}
    assert {"a new day", "it's the end"} < said and "too late" not in said
    assert not any("name" in text.lower() and "A." in text for text in said)
    # Once, and not from what validates.
    ((name, shown),) = asked
    assert name == "smollm2-135m" and len(shown) == 8 + 3
    monkeypatch.setattr(own_texts, "PATIENCE", 10)
    monkeypatch.setattr(own_texts, "lines_of", lambda *_: iter(["x"] * 20))
    with pytest.raises(SystemExit, match="then nothing new: ask for fewer"):
        real_data.main([str(tmp_path), *words, "--written=3"])


def test_what_is_shown_or_tested_is_not_written(monkeypatch):
    lines = ["we call it bear", "tom is late", "we like it", "he is here"]
    monkeypatch.setattr(own_texts, "lines_of", lambda *_: iter(lines))
    shown, closed = ["TOM IS LATE"], {"WE CALL IT BEAR"}
    written = own_texts.own_texts("model", shown, closed, 2, seed=1)
    assert written == ["we like it", "he is here"]


def test_a_model_writes_lines_that_a_seed_gives_again(decoder_folders):
    def some():
        torch.manual_seed(1)
        source, rng = str(decoder_folders["llama"]), random.Random(1)
        lines = own_texts.lines_of(source, ["one two", "three\nfour"], rng)
        return list(itertools.islice(lines, 40))

    assert some() == some() and any(some())


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, parts of files too; breaks off what it is told to."""

    asked: list = []
    stop_at = None

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        first = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.asked.append(first)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : Ranges.stop_at])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, sources):
    """The archives at an address of this machine."""
    served = tmp_path / "served"
    served.mkdir()
    for name, *below in (
        ("speechocean762", "speechocean762"),
        ("test-other", "LibriSpeech/test-other"),
        ("train-clean-5", "LibriSpeech/train-clean-5"),
    ):
        with tarfile.open(served / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(sources / "data" / below[0], below[0])
    handler = functools.partial(Ranges, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        Ranges.asked.clear()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()
    Ranges.stop_at = None


def test_fetching_tells_sizes_first_and_goes_on(
    server, sources, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("REAL_MODELS", str(sources / "models"))
    monkeypatch.delenv("REAL_DATA", raising=False)
    archives = {
        f"{server}/{url.rpartition('/')[2]}": place
        for url, place in real_data.ARCHIVES.items()
    }
    monkeypatch.setattr(real_data, "ARCHIVES", archives)
    out = tmp_path / "out"
    Ranges.stop_at = 1000
    with pytest.raises((SystemExit, OSError)):
        real_data.main([str(out), *SMALL])
    told = capsys.readouterr().out
    assert told.count("to fetch: http") == 3 and "MB" in told
    assert Ranges.asked == [0]
    (part,) = out.rglob("*.part")
    assert part.stat().st_size == 1000
    Ranges.stop_at = None
    real_data.main([str(out), *SMALL, "--processes=1"])
    assert Ranges.asked[1:] == [1000, 0, 0]
    assert not list(out.rglob("*.tar.gz*"))
    assert len(read_kaldi(out / "data/real/train")[1]) == 10
    assert list(read_kaldi(out / "data/real/libri")[1]) == ["7-8-0000"]
    Ranges.asked.clear()
    real_data.main([str(out), *SMALL, "--processes=1"])
    assert Ranges.asked == []


# -- the yardstick ----------------------------------------------------------------


def test_whisper_is_scored_on_the_recipes_sets(tmp_path, monkeypatch, capsys):
    rows = ["ID,duration,wav,spk_id,wrd"]
    for index in range(3):
        voice(tmp_path / f"{index}.wav", index)
        rows.append(f"u{index},0.5,$data_root/{index}.wav,s{index},ONE RED DOG")
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    heard = []

    def transcribe(wavs):
        heard.extend(map(len, wavs))
        return ["One red dog.", "one red", "One, blue dog!"][: len(wavs)]

    monkeypatch.setattr(whisper_wer, "lacks", lambda model: "")
    monkeypatch.setattr(whisper_wer, "transcriber", lambda *_: transcribe)
    places = ["--data_root", str(tmp_path), "--manifests", str(tmp_path)]
    output = tmp_path / "whisper.json"
    words = ["model", *places, "--sets", "test", "--output", str(output)]
    assert whisper_wer.main(words) == 0
    assert heard == [8000] * 3
    score = json.loads(output.read_text())["test"]
    assert score["value"] == pytest.approx(100 * 2 / 9)
    assert (score["deletions"], score["substitutions"]) == (1, 1)
    assert score["speakers"] == 3 and score["interval"]


def test_an_encoder_alone_is_no_failure(tmp_path, encoder_folders, capsys):
    output = tmp_path / "whisper.json"
    words = [str(encoder_folders["whisper"]), "--data_root=/", "--sets=test"]
    words += ["--manifests=/", f"--output={output}"]
    assert whisper_wer.main(words) == 0
    assert "Whisper itself is not measured" in capsys.readouterr().out
    assert not output.exists()


# -- all of it ----------------------------------------------------------------------


def miniature(config):
    """Steps and runs that tiny models take seconds for."""
    quick = {"steps": 2, "warmup_steps": 0, "warmdown_steps": 2}
    config["utterances"] = 2
    config["set"] |= {
        **{"downsampling": 3, "max_new_tokens": 6, "split.valid": 1},
        **{"split.test_speakers": 3, "batch_size": 3, "long_audio": "chunk"},
    }
    config["data"]["real"]["make"] += [*SMALL, "--processes=1"]
    systems = config["systems"]
    for system in systems.values():
        system["set_baseline"] = {**system["set_baseline"], **quick}
    steps, one = {"steps": [2]}, {"seeds": [1]}
    systems["smollm2"] |= {"control": [2], "plans": ["even"]}
    systems["smollm2"]["tuning"] |= {"depth": 2, "steps": 2}
    systems["smollm2"]["tuning"]["healing"] = {"spread": "even"}
    systems["smollm2"]["study"] = [
        {"depths": [2], "healing": ["none"], **one},
        {"depths": [2], "healing": ["both"], **steps},
        {"depths": [2], "healing": ["spread"], "path": "even", **steps, **one},
    ]
    systems["smollm2-lora"]["study"] = [
        {"depths": [2], "healing": ["both"], **steps, **one}
    ]
    config["seeds"], config["timings"] = [1, 2], []


@pytest.mark.slow
def test_from_nothing_to_a_report_that_is_rechecked(
    sources, tmp_path, monkeypatch, decoder_folders, encoder_folders
):
    models = tmp_path / "models"
    models.mkdir()
    for name, place in (
        ("smollm2-135m", decoder_folders["llama"]),
        ("whisper-base-encoder", encoder_folders["whisper"]),
    ):
        (models / name).symlink_to(place)
    monkeypatch.setenv("REAL_MODELS", str(models))
    monkeypatch.setenv("REAL_DATA", str(sources / "data"))
    file, results = changed(tmp_path, miniature), tmp_path / "real"
    command = [sys.executable, "-m", "speechllm.study.local", str(file)]
    command += ["--results", str(results), "--workers=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (results / "report/report.html").is_file(), done.stdout[-3000:]
    plan = read_plan(file, results=str(results))
    ended = {name: status_of(plan, name) for name in plan.runs}
    assert set(ended.values()) == {"done"}, (ended, done.stdout[-3000:])
    whole = load_run(plan.run_folder("smollm2-s1"))
    warm = load_run(plan.run_folder("warmup-s1"))
    # Copies at two speeds of the corpus's own, and not of the valid speaker.
    assert whole.data["train"]["utterances"] == 3 * 8
    assert warm.data["train"]["utterances"] == 8 + 1 + 12
    assert {k: v.speakers for k, v in whole.scores.items()} == {
        "test": 3,
        "test-other": 1,
    }
    assert not warm.scores
    page = (results / "report/report.md").read_text()
    assert "smollm2-s1" not in page.split("## What is missing")[1]
    table = (results / "report/table.md").read_text()
    assert "warmup-s1" not in table and "aligned-s1" not in table
    assert "spread, even" in (results / "report/healing/table.md").read_text()
    # As if the decoder of Whisper had been there.
    score = SetScore("WER", 21.0, [19.0, 23.0], speakers=3)
    write_json(results / "whisper.json", {"test": asdict(score)})
    # What is committed of it is made again from the packed runs.
    docs = tmp_path / "root/docs/real"
    docs.mkdir(parents=True)
    (study,) = (one for one in STUDIES if one.name == "real")
    assert study.packed(tmp_path / "root") == docs / PACKED
    assert pack(results, docs / PACKED) == len(load_runs(results / "runs").all)
    names = ["real-table", "real-whisper"]
    told = recheck.recheck(study, tmp_path / "root", names, True)
    there = {file.name for file in docs.iterdir()}
    assert {"report.md", "table.md", "whisper.json"} <= there
    assert told.blocks["real-whisper"].startswith("test: WER 21.00 [")
    told = recheck.recheck(study, tmp_path / "root", names)
    assert not told.differs, told
    assert "spread" in told.blocks["real-table"]
