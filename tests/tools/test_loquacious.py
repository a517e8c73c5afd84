"""The Loquacious set: the index, reading from Parquet, the two commands."""

import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import pretend_baseline
from encoded import Pipe, encode, noise
from recipe_scripts import (
    RECIPES,
    load_script,
    quick,
    run_command,
    train,
)
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.batches import StepBatchSampler
from speechbrain_ext.data.manifests import PreparationError
from speechbrain_ext.data.parquet import ParquetAudio, place_of
from speechbrain_ext.data.rows import read_manifest
from speechbrain_ext.data.sets import groups_of
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.settings import speechllm_rules
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.multitask import MultiTask
from speechllm.settings import load_hparams

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).parents[2]
RECIPE = RECIPES / "Loquacious/ASR/SpeechLLM"
LIBRISPEECH = RECIPES / "LibriSpeech/ASR/SpeechLLM"
PUBLISHED = ROOT / "tests/published_configs"
sys.path.insert(0, str(RECIPE))
import loquacious_prepare  # noqa: E402
from loquacious_prepare import prepare_loquacious  # noqa: E402


def wav_bytes(samples):
    """An audio file as bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV")
    return buffer.getvalue()


def some_rows(name, size, seed=1):
    """Rows as the set has them."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(size):
        samples = 0.2 * random.standard_normal(int(random.integers(5e3, 1e4)))
        rows.append(
            {
                "ID": f"{name}-{index}",
                "duration": len(samples) / 16000,
                "wav": {"bytes": wav_bytes(samples), "path": "x.wav"},
                "spk_id": f"speaker{index % 2}",
                "sex": "unknown",
                "text": "ONE RED DOG",
            }
        )
    return rows


def write_rows(file, rows, group=3):
    """Rows to a Parquet file with small row groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=group)


def write_set(top):
    """A tiny set: small with two files, dev and test with one."""
    for part in range(2):
        name = f"small/train-{part:05d}-of-00002.parquet"
        write_rows(top / name, some_rows(f"small{part}", 7, part))
    for split in ("dev", "test"):
        rows = some_rows(split, 5, 9)
        write_rows(top / f"{split}/{split}-00000-of-00001.parquet", rows)
    return top


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound set; read only."""
    return write_set(tmp_path_factory.mktemp("loquacious"))


def index(top, out, split="small", **options):
    """Prepare one subset; gives its manifest's rows."""
    root = prepare_loquacious(str(top), str(out), [split], **options)
    return read_manifest(Path(out) / f"{split}.csv", root)


# ------------------------------------------------------- index and reading


def test_every_utterance_is_found_again(whole, tmp_path):
    rows = index(whole, tmp_path)
    assert len(rows) == 14
    audio = ParquetAudio()
    for part in range(2):
        for given in some_rows(f"small{part}", 7, part):
            row = rows[given["ID"]]
            wav, _ = soundfile.read(
                io.BytesIO(given["wav"]["bytes"]), dtype="float32"
            )
            assert torch.equal(audio.read(row["wav"]), torch.from_numpy(wav))
            assert row["duration"] == len(wav) / 16000
            assert row["wrd"] == given["text"]
    # 7 rows in groups of 3, twice: each group was read once.
    assert audio.groups_read == 6


def test_memory_is_bounded_and_one_group_is_kept(whole, tmp_path):
    rows = index(whole, tmp_path)
    audio = ParquetAudio(cache_bytes=1)
    places = [row["wav"] for row in rows.values()]
    for place in places:
        audio.read(place)
    assert len(audio._groups) == 1 and audio.groups_read == 6
    audio.read(places[0])
    assert audio.groups_read == 7


def test_reader_goes_to_other_processes(whole, tmp_path):
    rows = index(whole, tmp_path)
    audio = ParquetAudio(cache_bytes=5.0)
    place = rows["small0-0"]["wav"]
    wav = audio.read(place)
    sent = pickle.loads(pickle.dumps(audio))
    assert sent.groups_read == 0 and sent.cache_bytes == 5.0
    assert torch.equal(sent.read(place), wav)
    child = os.fork()
    if child == 0:
        same = torch.equal(audio.read(place), wav) and audio.groups_read == 1
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_unpacked(whole, tmp_path):
    index(whole, tmp_path)
    assert {p.suffix for p in tmp_path.rglob("*")} <= {".csv", ".json"}


def test_unchanged_files_are_not_read_again(whole, tmp_path, monkeypatch):
    index(whole, tmp_path)
    monkeypatch.setattr(loquacious_prepare, "open_parquet", None)
    index(whole, tmp_path)
    with pytest.raises(TypeError):
        index(whole, tmp_path, check_audio="none")


def damaged(change):
    """Rows of dev with one of them changed."""
    rows = some_rows("dev", 3)
    change(rows[1])
    return rows


def with_nan():
    samples = np.zeros(8000, dtype="float32")
    samples[5] = np.nan
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


FAULTS = {
    "empty transcript": lambda row: row.update(text="  "),
    "no audio": lambda row: row.update(wav={"bytes": b"", "path": "x"}),
    "broken audio": lambda row: row.update(wav={"bytes": b"x" * 99}),
    "NaN": lambda row: row.update(wav={"bytes": with_nan(), "path": "x"}),
    "2 duplicate id": lambda row: row.update(ID="dev-0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_or_left_out(tmp_path, fault):
    write_rows(tmp_path / "set/dev/a.parquet", damaged(FAULTS[fault]))
    out = tmp_path / "out"
    with pytest.raises(PreparationError, match=fault):
        index(tmp_path / "set", out, "dev", check_audio="full")
    options = {"check_audio": "full", "skip_bad": True}
    left = 1 if "duplicate" in fault else 2
    assert len(index(tmp_path / "set", out, "dev", **options)) == left


@pytest.mark.parametrize("check_audio", ["header", "full"])
def test_an_estimate_does_not_replace_the_tables_duration(
    tmp_path, check_audio
):
    rows = some_rows("dev", 2)
    target = Pipe()
    encode(target, noise(1.0, 16000), 16000, "mp3", "libmp3lame")
    rows[0]["wav"] = {"bytes": bytes(target.content), "path": "a.mp3"}
    rows[0]["duration"] = 1.0
    rows[1]["duration"] = 77.0
    write_rows(tmp_path / "set/dev/a.parquet", rows)
    found = index(tmp_path / "set", tmp_path, "dev", check_audio=check_audio)
    if check_audio == "header":
        assert found["dev-0"]["duration"] == 1.0
    else:
        wav_N = ParquetAudio().read(found["dev-0"]["wav"])
        assert found["dev-0"]["duration"] == len(wav_N) / 16000 > 1.0
    # What the audio itself states is true.
    assert found["dev-1"]["duration"] < 1


def test_damaged_rows_are_named_or_left_out(tmp_path):
    file = tmp_path / "set/dev/a.parquet"
    write_rows(file, some_rows("dev", 6))
    content = bytearray(file.read_bytes())
    meta = pq.ParquetFile(file).metadata.row_group(0)
    start = meta.column(0).dictionary_page_offset or 4
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(PreparationError, match="a.parquet, row group 0"):
        index(tmp_path / "set", tmp_path, "dev")
    rows = index(tmp_path / "set", tmp_path, "dev", skip_bad=True)
    assert list(rows) == ["dev-3", "dev-4", "dev-5"]
    with pytest.raises(AudioError, match="a.parquet#7:0"):
        ParquetAudio().read(f"{file}#7:0")


def test_wrong_folders_and_files(whole, tmp_path):
    with pytest.raises(PreparationError, match="no medium/.*there is dev"):
        index(whole, tmp_path, "medium")
    with pytest.raises(PreparationError, match="no such folder"):
        index(tmp_path / "nowhere", tmp_path)
    rows = [{"ID": "a", "text": "b"}]
    write_rows(tmp_path / "bad/dev/a.parquet", rows)
    with pytest.raises(PreparationError, match="no column duration, wav"):
        index(tmp_path / "bad", tmp_path, "dev")
    (tmp_path / "bad/dev/a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(PreparationError, match="cannot be read as Parquet"):
        index(tmp_path / "bad", tmp_path, "dev")
    with pytest.raises(AudioError, match="cannot be read as Parquet"):
        ParquetAudio().read(f"{tmp_path}/bad/dev/a.parquet#0:0")


def test_hub_name_fetches_only_the_wanted_subsets(whole, tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    def fetch(name, **options):
        asked.update(name=name, **options)
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    rows = index("speechbrain/LoquaciousSet", tmp_path, "dev")
    assert len(rows) == 5
    assert asked["allow_patterns"] == ["dev/*.parquet"]
    assert asked["repo_type"] == "dataset"


def test_a_missing_package_is_no_damaged_file(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="need pyarrow: pip install"):
        ParquetAudio().content(place_of(str(whole / "dev/0.parquet"), 0, 0))


def test_utterances_of_a_row_group_belong_together():
    rows = {
        "a": {"wav": "/c/dev/0.parquet#0:11"},
        "b": {"wav": "/c/dev/0.parquet#1:0"},
        "c": {"wav": "/c/dev/0.parquet#0:1"},
    }
    dataset = DynamicItemDataset(rows)
    one, other, same = groups_of(dataset)
    assert one == same != other
    dataset.data_ids = ["b"]
    assert groups_of(dataset) == [other]
    files = {"a": {"wav": "/c#/0.flac"}, "b": {"duration": 1.0}}
    assert groups_of(DynamicItemDataset(files)) is None


def test_training_reads_each_group_about_once(whole, tmp_path):
    groups = [i // 10 for i in range(1000)]
    options = dict(size=1000, batch_size=10, steps=200, seed=3)
    batches = list(StepBatchSampler(**options, groups=groups))
    for epoch in (batches[:100], batches[100:]):
        assert sorted(i for b in epoch for i in b) == list(range(1000))
    assert batches[:100] != batches[100:]
    # A batch is mixed from several groups, and none comes back later.
    assert np.mean([len({i // 10 for i in b}) for b in batches]) > 5
    seen = [{i // 10 for i in b} for b in batches[:100]]
    span = [
        [step for step, some in enumerate(seen) if group in some]
        for group in range(100)
    ]
    assert max(steps[-1] - steps[0] for steps in span) < 17


# ------------------------------------------------------------- the commands


def test_train_on_parquet(whole, tmp_path, decoder_folders, encoder_folders):
    sources = decoder_folders["llama"], encoder_folders["wavlm"]
    options = quick(tmp_path, *sources, data_folder=whole)
    run_command(RECIPE, "train.py", "hparams/mini.yaml", *options)
    result = load_run(tmp_path / "mini")
    assert result.status == "done" and result.steps == 2
    assert result.data["train"]["utterances"] == 14
    assert result.scores["dev"].metric == "WER"
    # The same run from features that are kept, of audio in Parquet files too.
    options += ["--run_name=cached", f"--cache_features={tmp_path}/features"]
    run_command(RECIPE, "train.py", "hparams/mini.yaml", *options)
    cached = load_run(tmp_path / "cached")
    assert cached.validation["final_loss"] == pytest.approx(
        result.validation["final_loss"], rel=1e-2
    )
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) > 14


@pytest.fixture(scope="module", params=["frozen", "lora"])
def pruned_run(
    request, corpus, tmp_path_factory, decoder_folders, encoder_folders
):
    """A LibriSpeech run, pruned and healed, of a frozen or adapted baseline."""
    top = tmp_path_factory.mktemp("librispeech")
    options = quick(
        top,
        decoder_folders["qwen2"],
        encoder_folders["wavlm"],
        data_folder=corpus,
        valid_splits="[dev-clean]",
        test_splits="[test-clean]",
        lr_adapter=0.3,
    )
    adapted = f"--adapt_attention={request.param == 'lora'}"
    train(LIBRISPEECH, "mini.yaml", [*options, adapted])
    train(LIBRISPEECH, "mini_prune.yaml", options)
    return top / "mini_prune"


def test_librispeech_run_is_scored_with_one_command(
    whole, pruned_run, tmp_path
):
    before = load_run(pruned_run)
    words = [pruned_run, "--data_folder", whole]
    words += ["--manifest_folder", tmp_path]
    load_script(RECIPE, "evaluate").main([str(word) for word in words])
    after = load_run(pruned_run)
    assert after.scores["test-clean"] == before.scores["test-clean"]
    assert after.scores["loquacious-dev"].utterances == 5
    assert after.made_by == before.made_by and after.status == "done"
    rows = read_utterances(pruned_run / "hypotheses-loquacious-dev.jsonl")
    assert [row["reference"] for row in rows] == ["one red dog"] * 5
    assert {row["speaker"] for row in rows} == {"speaker0", "speaker1"}


def test_rebuilt_run_says_what_the_trained_one_said(pruned_run, corpus):
    model = TrainedRun(pruned_run).load()
    folder = pruned_run.parent / "manifests"
    manifest = read_manifest(folder / "test-clean.csv", corpus)
    for row in read_utterances(pruned_run / "hypotheses-test-clean.jsonl"):
        wav, _ = soundfile.read(manifest[row["id"]]["wav"], dtype="float32")
        x_BSF, tokens_B = model.features(
            torch.from_numpy(wav)[None], torch.tensor([len(wav)])
        )
        said = model.transcribe(x_BSF, tokens_B, torch.tensor([6]))
        assert said[0] == row["hypothesis"]
    assert TrainedRun(pruned_run).adapter_folder
    assert model.decoder.adapter is not None


def test_adapted_baseline_has_weights_of_its_own(pruned_run):
    tasks = MultiTask.from_runs({"asr": pruned_run})
    if TrainedRun(pruned_run).frozen_adapter_folder:
        with pytest.raises(ValueError, match="LoRA-adapted baseline"):
            tasks.add("again", pruned_run)
    else:
        tasks.add("again", pruned_run)


def test_evaluate_names_what_is_wrong(whole, tmp_path, capsys):
    main = load_script(RECIPE, "evaluate").main
    words = [str(tmp_path), f"--data_folder={whole}"]
    with pytest.raises(FileNotFoundError, match="holds no trained system"):
        main(words)
    with pytest.raises(SystemExit):
        main([*words, "--what=1"])
    assert "unknown options: what: 1" in capsys.readouterr().err


YAMLS = sorted(path.name for path in (RECIPE / "hparams").glob("*.yaml"))


@pytest.mark.parametrize("name", YAMLS)
def test_every_yaml_loads(name, tmp_path, decoder_folders, encoder_folders):
    sources = PUBLISHED / "qwen2.5-7b", PUBLISHED / "wavlm-large"
    if name.startswith("mini"):
        sources = decoder_folders["qwen2"], encoder_folders["wavlm"]
    overrides = {
        "data_folder": str(tmp_path),
        "results_folder": str(tmp_path / "results"),
        "backbone.source": str(sources[0]),
        "speech_encoder.source": str(sources[1]),
        "baseline": pretend_baseline(tmp_path) if "prune" in name else None,
    }
    hparams = load_hparams(
        str(RECIPE / "hparams" / name), overrides, [speechllm_rules]
    )
    assert hparams["task"] == "ASR"
    assert (hparams["prune_layers"] > 0) == ("prune" in name)
