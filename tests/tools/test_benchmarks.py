"""The benchmarks: what is compared is the same, and the pages are right.

Each script's own check runs on tiny sizes, and so does the measuring.

Authors
 * The speechbrain_ext authors, 2026
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import common, gpu, gpu_models, gpu_training, readme, run  # noqa: E402, I001
from benchmarks import decoding_generate as generate  # noqa: E402
from benchmarks import model_files, models, redundancy_table  # noqa: E402
from benchmarks import streaming, training_projector  # noqa: E402


def costs_in_process(sides, tier):
    found = [streaming.cost(side, streaming.SIZES[tier]) for side in sides]
    return [[[one[unit]] for one in found] for unit in (0, 1)]


@pytest.mark.parametrize("name", run.SCRIPTS)
def test_both_sides_agree_and_are_measured(name, monkeypatch, capfd):
    module = importlib.import_module(f"benchmarks.{name}")
    # Fresh processes take seconds each; one of them is tried below.
    for place in (module, common):
        monkeypatch.setattr(
            place, "peaks", lambda *args: ([1.0], [2.0]), raising=False
        )
    if name == "streaming":
        monkeypatch.setattr(module, "costs", costs_in_process)
        monkeypatch.delenv("MERGEKIT", raising=False)
    sizes = module.SIZES["tiny"]
    torch.manual_seed(0)
    module.check(sizes)
    rows = list(module.rows(sizes, "tiny"))
    assert rows
    for row in rows:
        assert row.ours > 0 and row.peer > 0
        assert row.spread[0] <= row.ratio <= row.spread[1]
        assert row.sizes and row.threads >= 1


def test_checks_can_fail(monkeypatch):
    monkeypatch.setattr(
        generate, "greedy", lambda lm, seq, limits, stops: [[5] * 12] * 3
    )
    with pytest.raises(AssertionError, match="not the same tokens"):
        generate.check(generate.SIZES["tiny"])
    plain = training_projector.all_logits_loss
    monkeypatch.setattr(
        training_projector, "all_logits_loss", lambda *a: 1.1 * plain(*a)
    )
    with pytest.raises(AssertionError):
        training_projector.check(training_projector.SIZES["tiny"])
    measure = redundancy_table.measure

    def shifted(lm, batches):
        table = measure(lm, batches)
        table.distances[0, 1] += 1e-3
        return table

    monkeypatch.setattr(redundancy_table, "measure", shifted)
    with pytest.raises(AssertionError):
        redundancy_table.check(redundancy_table.SIZES["tiny"])


def test_rows_and_targets():
    more = common.row_of("a", [1.0, 2.0, 4.0], [8.0, 20.0, 36.0], "at least 9")
    assert (more.ratio, more.spread, more.met) == (9.0, [8.0, 10.0], True)
    less = common.row_of("b", [1.1, 2.0], [1.0, 2.0], "at most 1.03", unit="MB")
    assert less.ratio == pytest.approx(1.05) and less.met is False
    assert "MISSED" in str(less) and "1 to 1.1" in str(less)
    with pytest.raises(ValueError, match="about 3"):
        common.row_of("c", [1.0], [1.0], "about 3")


def test_pairs_are_measured_in_turns():
    calls = []
    ours, peer = lambda: calls.append("o"), lambda: calls.append("p")
    times = common.paired(ours, peer, 3)
    assert "".join(calls) == "op" + "op" + "po" + "op"
    assert [len(values) for values in times] == [3, 3]


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)
def test_peak_memory():
    # In a process of its own: here, freed memory of earlier tests is reused.
    code = """
import torch
from benchmarks import common

def prepare():
    torch.ones(120 * 2**18)  # 120 MB, gone again
    return torch.ones(10 * 2**18)

print(common.peak_of(prepare, lambda kept: torch.ones(20 * 2**18) + 1))
"""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(common.__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # 10 that stay and twice 20, and what the library's code takes of it.
    assert 48 < float(said) < 80


def test_a_fresh_process_measures_or_says_why_not():
    found = common.in_fresh_process("loading", "peak('ours', m.SIZES['tiny'])")
    assert 0 < found < 200
    with pytest.raises(RuntimeError, match="absent"):
        common.in_fresh_process("absent", "peak()")


def test_run_writes_results_and_page(tmp_path, monkeypatch):
    def script(name, tier):
        if name == "sweep":
            raise RuntimeError("the sides differ")
        target = "at least 9" if name == "loading" else "at most 1"
        row = common.row_of(name, [1.0], [4.0], target, sizes="s", note="n")
        return [{**vars(row), "command": f"python -m benchmarks.{name}"}]

    monkeypatch.setattr(run, "run_script", script)
    output = tmp_path / "results"
    options = ["--machine", "A (B) c", "--output", str(output)]
    assert run.main(["--only", "loading", "sweep", *options]) == 1
    assert run.main(["--only", "evaluation", *options]) == 0
    whole = json.loads((output / "a-b-c.json").read_text())
    assert list(whole["rows"]) == ["loading", "evaluation"]
    row = whole["rows"]["loading"]["rows"][0]
    keys = "name ours peer ratio spread target met command".split()
    # Each script's rows keep what they were made with.
    made = run.made_with()
    assert whole["rows"]["loading"].items() >= made.items()
    assert set(keys) <= set(row) and row["met"] is False
    page = re.sub(" +", " ", (tmp_path / "README.md").read_text())
    assert "| loading | at least 9 | 4 (4 to 4, 1) |" in page
    assert 'Why "loading" misses its target: n' in page
    assert page.count("Why") == 1 and "no GPU was at hand" in page


def test_rows_of_another_day_say_so():
    part = {**run.made_with(), "minutes": 1.0}
    row = vars(common.row_of("a", [1.0], [4.0], "", sizes="s", command="c"))
    rows = {"one": {**part, "rows": [row]}}
    # Older files have versions and date once, for all their rows.
    rows["other"] = {"minutes": 1.0, "rows": [row]}
    old = {**part, "machine": "m", "date": "2000-01-01", "rows": rows}
    page = readme.machine_part(old)
    assert page.count(f"- Measured {readme.made_with(old)}") == 1
    assert f"{readme.made_with(part)}; 2 minutes in all." in page


def test_a_peer_that_fails_says_why(tmp_path, monkeypatch):
    python = tmp_path / "python"
    script = "import sys; print('1 2') if '-c' in sys.argv else sys.exit('No!')"
    python.write_text(f"#!{sys.executable}\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setenv("MERGEKIT", str(python))
    monkeypatch.setattr(streaming, "costs", lambda sides, tier: [[[8.0]]] * 2)
    at = {"weights": 1.0, "layer": 1.0}
    given = streaming.SIZES["tiny"], "tiny", {"sizes": "small", "at": at}
    memory, time = streaming.pair_rows(streaming.PAIRS[-1], *given)
    why = "mergekit 1 beside transformers 2 fails: No!"
    assert (memory.note, memory.unit, time.unit) == (why, "MB", "s")
    assert memory.ours == 8 and memory.met is time.met is None
    assert f"no peer: {why}" in str(time)
    rows = [{**vars(row), "command": "c"} for row in (memory, time)]
    part = {"machine": "m", **run.made_with()}
    part["rows"] = {"streaming": {"minutes": 1.0, "rows": rows}}
    page = "\n".join(readme.machine_part(part))
    assert f'- "{time.name}" has no peer: {why}' in page


def test_a_peer_that_writes_something_else_is_seen(monkeypatch):
    sizes = streaming.SIZES["tiny"]

    def layers_of_the_whole(sizes, out):
        streaming.prune_streamed(sizes, out)
        file = Path(out, "config.json")
        told = json.loads(file.read_text())
        told["layer_types"] = ["full_attention"] * 4
        file.write_text(json.dumps(told))

    said = streaming.check_written(layers_of_the_whole, sizes)
    assert "must be equal" in said

    def another_layer(sizes, out):
        block = streaming.Block(0, 2)
        streaming.prune_streamed({**sizes, "drop": block}, out)

    with pytest.raises(AssertionError, match="layers.0"):
        streaming.check_written(another_layer, sizes)


def test_a_model_that_the_disk_does_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        model_files.shutil, "disk_usage", lambda _: type("_", (), {"free": 1e9})
    )
    config = models.published_config("Qwen2.5-7B")
    with pytest.raises(RuntimeError, match="27 GB of disk.*1 GB are free"):
        model_files.write_model(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_larger_model_is_reckoned_from_two():
    def rows(weights, layer, ours, peer):
        row = common.row_of("a", [ours], [peer], "", unit="MB", sizes="s")
        at = {"weights": weights, "layer": layer}
        return {"rows": [{**vars(row), "at": at}]}

    large = readme.LARGE
    scripts = {"streaming-1.5b": rows(1000, 10, 110.0, 2000.0)}
    assert readme.by_arithmetic(scripts) == []
    scripts["streaming-7b"] = rows(2000, 20, 120.0, 4000.0)
    page = "\n".join(readme.by_arithmetic(scripts))
    assert "by arithmetic, not measured" in page
    ours, peer = 6 * large["layer"], 2 * large["weights"]
    assert f"{ours:.0f} MB | {peer:.0f} MB |" in page
    config = models.published_config("Qwen2.5-72B")
    with torch.device("meta"):
        lm = gpu_models.AutoModelForCausalLM.from_config(config)
    for name, part in (("weights", lm), ("layer", lm.model.layers[0])):
        held = 2 * sum(p.numel() for p in part.parameters()) / 2**20
        assert large[name] == pytest.approx(held, rel=1e-5)


def test_targets_are_for_the_full_sizes(tmp_path, capsys):
    row = common.row_of("a", [1.0], [2.0], "at least 9")
    sizes = {"full": {}, "7b": {}, "tiny": {}}
    for tier, met in (("full", False), ("7b", False), ("tiny", None)):
        given = [sizes, lambda sizes: None, lambda *_: [row]]
        (found,) = common.script("x", *given, ["--tier", tier])
        assert found.met is met
    assert run.LARGER["streaming-7b"] == ("streaming", "7b")


def test_machine_names_no_host():
    name = run.machine_name()
    assert name[0].isdigit() and "machine" in name
    assert run.file_of("2-core AMD (R) x") == "2-core-amd-r-x"


def test_gpu_on_the_cpu(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    whole = gpu.main(["--tier", "cpu", "--json", str(file)])
    assert json.loads(file.read_text()) == whole
    depths = whole["results"]["tiny"]
    assert list(depths) == ["0", "2"]
    for found in depths.values():
        for batch in ("batch 1", "batch 3"):
            assert 0 < found[batch]["static"]["same_tokens"] <= 1
            assert found[batch]["static"]["token_s"] > 0
    assert whole["summary"]["tiny"]["2"]["over_floor"] > 0
    changes = whole["training"]["tiny"]
    before, *_, after = list(gpu_training.CHANGES)
    assert changes[after]["step_s"] > 0
    # bfloat16 features, and nothing else, tell the sides apart.
    assert changes[after]["loss"] == pytest.approx(
        changes[before]["loss"], rel=1e-2
    )
    assert whole["encoder_memory"]["after, float32"]["difference"] < 1e-5
    assert whole["same_tokens"]["batch 3"] is True
    assert whole["batch_invariance"]["float32"]["changed_by_recording"] == 0
    page = re.sub(" +", " ", "\n".join(readme.gpu_part(whole)))
    assert "| tiny | 2 | 3 |" in page and f"| tiny | {after} |" in page


def test_gpu_models_are_whole_on_their_device():
    tier = gpu_models.TIERS["cpu"]
    model = gpu_models.build("tiny", 2, tier, torch.device("meta"))
    for part in (model.encoder, model.projector, model.decoder):
        held = [*part.parameters(), *part.buffers()]
        assert held and {value.device.type for value in held} == {"meta"}


def test_gpu_names_what_it_skips(tmp_path, monkeypatch, capsys):
    def too_large(model, batch, *rest):
        if batch == 3:
            raise torch.OutOfMemoryError
        return {}

    monkeypatch.setattr(gpu, "measure_decoding", too_large)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    file = ["--json", str(tmp_path / "gpu.json")]
    only = ["--tier", "cpu", "--only", "decoding", *file]
    whole = gpu.main(only)
    depth = whole["results"]["tiny"]["0"]
    assert depth["batch 3"] == {"skipped": "does not fit the memory"}

    def broken(*given):
        raise ValueError("no such thing")

    monkeypatch.setattr(gpu, "encoder_memory", broken)
    # The test's name for it, as the function's is.
    broken.__name__ = "encoder_memory"
    whole = gpu.main([*only[:2], "--only", "encoder_memory", *file])
    assert whole["encoder_memory"] == {"failed": "ValueError: no such thing"}
    assert whole["results"]["tiny"]["0"] == depth  # kept
    whole = gpu.main([*only, "--minutes", "0"])
    assert whole["results"]["tiny"]["0"] == {"skipped": "the time was spent"}


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    readme.write_readme(readme.HERE / "results", tmp_path / "README.md")
    committed = (readme.HERE / "README.md").read_text()
    assert (tmp_path / "README.md").read_text() == committed
