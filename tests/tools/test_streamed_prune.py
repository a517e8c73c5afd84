"""A smaller causal LM is copied from file to file, bytes as they were."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import families
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from speech_llm_fixtures import make_decoder
from test_cli import speechllm
from test_streamed import large, legacy_bin, run_child, saved  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

from speechbrain_ext.healing.closed_form import fit_in_sequence
from speechbrain_ext.layers.plans import save_plans
from speechbrain_ext.layers.removal import Removal, renumber
from speechbrain_ext.layers.rules import RULES, RuleData
from speechbrain_ext.layers.saved_lm import save_causal_lm
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechbrain_ext.model.decoder import Decoder
from speechllm import text_prune
from speechllm.streamed import copy
from speechllm.streamed.check import check_runs
from speechllm.streamed.copy import check_copy, write_pruned
from speechllm.streamed.maps import fold_streamed_maps
from speechllm.streamed.parts import Parts
from speechllm.streamed.walk import StreamedLM
from speechllm.text_lm import batches_of, load_text_model, perplexity
from speechllm.text_prune import Choice, prune, read_layers


def tensors(folder):
    """A folder's tensors by name, whatever file they are in."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def content(path):
    return json.loads(path.read_text())


def drop(capsys, source, drop, out, *more):
    words = ["prune", source, "--plan", drop, "--output", out, *more]
    return speechllm(capsys, *words)


def test_the_kept_layers_bytes_are_the_same(capsys, tmp_path, source):
    out = tmp_path / "out"
    code, said, err = drop(capsys, source, "1,3", out)
    assert (code, err) == (0, "") and "Removed layers 1, 3 of 5." in said
    whole = load_file(f"{source}/model.safetensors")
    new_index = {0: 0, 2: 1, 4: 2}
    expected = {renumber(n, new_index): t for n, t in whole.items()}
    expected.pop(None)
    found = tensors(out)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(
            found[name].view(torch.uint8), tensor.view(torch.uint8)
        )


@pytest.mark.parametrize(
    "kind", ["gemma3_text", "mixtral", "qwen2", "qwen3_5_text"]
)
def test_what_is_written_is_what_memory_would_write(kind, tmp_path):
    """Names, values, and every file beside them."""
    source = saved(kind, tmp_path / "source", max_shard_size="20KB")
    tokenizer = AutoTokenizer.from_pretrained(
        make_decoder("qwen2", tmp_path / "other")
    )
    removed, streamed = {1, 2}, tmp_path / "streamed"
    for name in ("streamed", "memory"):
        (tmp_path / name).mkdir()
    write_pruned(source, removed, str(streamed), tokenizer)
    lm = drop_layers(load_pruned(source), removed)
    save_causal_lm(lm, tokenizer, str(tmp_path / "memory"))
    one, other = tensors(streamed), tensors(tmp_path / "memory")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    files = {path.name for path in (tmp_path / "memory").iterdir()}
    assert files == {path.name for path in streamed.iterdir()}
    for name in files - {"model.safetensors"}:
        assert (streamed / name).read_text() == (
            tmp_path / "memory" / name
        ).read_text(), name


def test_shards_out(tmp_path, source):
    tokenizer = AutoTokenizer.from_pretrained(source)
    (tmp_path / "out").mkdir()
    write_pruned(source, {1}, str(tmp_path / "out"), tokenizer, shard=20_000)
    index = content(tmp_path / "out/model.safetensors.index.json")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert set(index["weight_map"].values()) == {f.name for f in files}
    assert len(files) > 3 and index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for t in tensors(tmp_path / "out").values()
    )
    for file in files:
        assert safe_open(file, "pt").metadata() == {"format": "pt"}
        for name in load_file(file):
            assert index["weight_map"][name] == file.name
    whole = load_pruned(source, {1})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_a_bin_file_is_copied_too(capsys, tmp_path, legacy_bin):  # noqa: F811
    source = make_decoder("llama", tmp_path / "m")
    expected = load_pruned(source, {2}).state_dict()
    legacy_bin(tmp_path / "m")
    assert drop(capsys, source, "2", tmp_path / "out")[0] == 0
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_type_is_converted(capsys, tmp_path, source):
    out = tmp_path / "out"
    assert drop(capsys, source, "1", out, "--dtype", "bfloat16")[0] == 0
    expected = load_pruned(source, {1}, dtype=torch.bfloat16).state_dict()
    found = tensors(out)
    assert found and all(torch.equal(found[n], expected[n]) for n in found)
    assert content(out / "config.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "text, layers",
    [("20-26", range(20, 27)), ("3,5,9", (3, 5, 9)), (" 7 - 8, 2", (2, 7, 8))],
)
def test_layers_as_they_are_written(text, layers):
    assert read_layers(text) == tuple(layers)


def test_layers_that_are_none(capsys, tmp_path, source):
    out = tmp_path / "out"
    for words, why in (
        ("a-b", "'a-b' of 'a-b' is no layer"),
        ("1,,2", "'' of '1,,2' is no layer"),
        ("-1", "'-1' of '-1' is no layer"),
        ("3-1", "'3-1' runs backwards"),
        ("1-2,2", "names layer 2 twice"),
        ("9", "has 5 layers, numbered 0 to 4"),
        ("4", "last of 5 layers must stay"),
    ):
        code, _, err = drop(capsys, source, words, out)
        assert code == 1 and why in err, (words, err)
    for words in (
        [],
        ["--plan", "1", "--layers", "1"],
        ["--plan", "1", "--rule", "even"],
        ["--layers", "1"],
        ["--plan", "1", "--heal", "map"],
    ):
        code, _, err = speechllm(
            capsys, "prune", source, "--output", out, *words
        )
        told = ("say which layers go", "names the layers", "give --text")
        assert code == 2 and any(one in err for one in told)
    assert os.listdir(tmp_path) == []


def test_a_rule_that_looks_at_nothing_needs_no_text(capsys, tmp_path, source):
    words = ["prune", source, "--layers", 2, "--rule", "even"]
    code, said, _ = speechllm(capsys, *words, "--output", tmp_path / "out")
    assert code == 0 and "Removed layers 1, 3 of 5 (rule even)." in said
    about = content(tmp_path / "out/pruning.json")
    assert about["kept_layers"] == [0, 2, 4] and "perplexity_after" not in about


def test_a_plan_or_a_table_says_which(capsys, tmp_path, decoder_folders):
    source, text = decoder_folders["qwen2"], tmp_path / "lines.txt"
    text.write_text("one two three\nred blue\nseven four\na cat\n" * 3)
    table, plans = tmp_path / "table.json", tmp_path / "plans.json"
    words = ["measure", source, "--text", text, "--output", table]
    assert speechllm(capsys, *words)[0] == 0
    model = StreamedLM(source)
    plan = RULES["even"](model, RuleData([], {"model": "qwen2"}), 2)
    save_plans(str(plans), [plan])
    removed = []
    for file, more in ((table, ["--layers", 2]), (plans, [])):
        words = ["prune", source, "--plan", file, "--overwrite", "--json"]
        words += ["--output", tmp_path / "out", "--text", text, *more]
        code, said, err = speechllm(capsys, *words)
        assert code == 0, err
        report = json.loads(said)
        removed.append(report["removed"])
        lm = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
        rows = text_prune.split_rows(
            [
                torch.tensor(tokenizer(line)["input_ids"])
                for line in text.read_text().splitlines()
            ]
        )[1]
        assert report["perplexity_after"] == pytest.approx(
            perplexity(lm, rows), rel=1e-5
        )
    best = content(table)["path"][1]
    assert removed == [[best[0], best[0] + 1], [1, 3]]
    words = ["prune", source, "--plan", table, "--output", tmp_path / "no"]
    code, _, err = speechllm(capsys, *words)
    assert code == 1 and "--layers" in err


def test_streamed_or_not_the_same_is_written(capsys, tmp_path, source):
    text = tmp_path / "lines.txt"
    text.write_text("one two three\nred blue\nseven four\na cat\n" * 3)
    reports = []
    for more in ([], ["--stream"]):
        words = ["prune", source, "--layers", 2, "--text", text, "--json"]
        words += ["--output", tmp_path / "out", "--overwrite", *more]
        code, said, _ = speechllm(capsys, *words)
        assert code == 0
        reports.append(json.loads(said))
    for name, value in reports[0].items():
        if isinstance(value, float):
            assert reports[1][name] == pytest.approx(value, rel=1e-5)
        elif name != "path":
            assert reports[1][name] == value


def test_what_is_there_is_not_overwritten(capsys, tmp_path, source):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis").write_text("mine")
    code, _, err = drop(capsys, source, "1", out, "--overwrite")
    assert code == 1 and "something else" in err
    assert os.listdir(out) == ["thesis"]


KILLED = """
import os, signal, sys
from speechllm import cli
from speechllm.streamed import copy
writing, parts = copy._write, []
def write(stream, part):
    parts.append(part)
    if len(parts) > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    writing(stream, part)
copy._write = write
cli.main(["prune", sys.argv[1], "--plan", "1", "--output", sys.argv[2]])
"""


def test_killed_half_way_nothing_has_the_name(capsys, tmp_path, source):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, source, str(out)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    [left] = os.listdir(tmp_path)
    assert left.startswith("out.unfinished-")
    assert drop(capsys, source, "1", out)[0] == 0


def test_a_copy_that_is_not_one_is_seen(tmp_path, source, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(source)
    (tmp_path / "out").mkdir()
    seen = []
    monkeypatch.setattr(
        copy, "check_copy", lambda pieces, folder: seen.append(pieces)
    )
    write_pruned(source, {1, 2}, str(tmp_path / "out"), tokenizer)
    folder, file = str(tmp_path / "out"), tmp_path / "out/model.safetensors"
    check_copy(seen[0], folder)
    good = file.read_bytes()
    # The last byte of a tensor; a layer in place of another.
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="not what was to be copied"):
        check_copy(seen[0], folder)
    swapped = good.replace(b".layers.0.mlp", b".layers.X.mlp")
    swapped = swapped.replace(b".layers.1.mlp", b".layers.0.mlp")
    file.write_bytes(swapped.replace(b".layers.X.mlp", b".layers.1.mlp"))
    with pytest.raises(ValueError, match="not what was to be copied"):
        check_copy(seen[0], folder)


def test_a_copy_that_says_something_else_is_seen(tmp_path, source):
    """Were other layers written, or another configuration, a row tells."""
    decoder = load_text_model(source, stream=True)
    for layers, changes, right in (
        ({1, 2}, {}, True),
        ({2, 3}, {}, False),
        ({1, 2}, {"rms_norm_eps": 0.1}, False),
    ):
        out = tmp_path / str(len(os.listdir(tmp_path)))
        out.mkdir()
        write_pruned(source, layers, str(out), decoder.tokenizer)
        config = {**content(out / "config.json"), **changes}
        (out / "config.json").write_text(json.dumps(config))
        if right:
            check_runs(decoder, Removal.of({1, 2}, 5), str(out))
            continue
        with pytest.raises(ValueError, match="differs from the layers"):
            check_runs(decoder, Removal.of({1, 2}, 5), str(out))


def test_one_bit_anywhere_in_a_layer_is_seen(tmp_path, source):
    """All bytes are held against the source's, not ends and a sample alone."""
    decoder = load_text_model(source, stream=True)
    removed, out = Removal.of({1, 2}, 5), tmp_path / "out"
    out.mkdir()
    write_pruned(source, removed, str(out), decoder.tokenizer)
    check_runs(decoder, removed, str(out))
    path = out / "model.safetensors"
    place = copy.read_head(str(path))["model.layers.1.mlp.up_proj.weight"]
    good, middle = (
        path.read_bytes(),
        copy.Piece("", place.dtype, place).size // 2,
    )
    for offset in (place.offset, place.offset + middle):
        flipped = bytes([good[offset] ^ 1])
        path.write_bytes(good[:offset] + flipped + good[offset + 1 :])
        with pytest.raises(ValueError, match="differs from the layers"):
            check_runs(decoder, removed, str(out))


@pytest.mark.parametrize("shard", [20_000, 1 << 30])
def test_layers_in_any_order_make_the_same_files(tmp_path, source, shard):
    tokenizer = AutoTokenizer.from_pretrained(source)
    orders = [(), (2, None, 0), (None, 0, 1, 2, 3)]
    for number, order in enumerate(orders):
        (tmp_path / str(number)).mkdir()

        def some(write, order=order):
            """Ask for some layers; the rest comes by itself."""
            for layer in order:
                write(layer)

        out = str(tmp_path / str(number))
        write_pruned(source, {1}, out, tokenizer, shard=shard, check=some)
    names = {path.name for path in (tmp_path / "0").iterdir()}
    for other in ("1", "2"):
        assert {path.name for path in (tmp_path / other).iterdir()} == names
        for name in names:
            one = (tmp_path / "0" / name).read_bytes()
            assert one == (tmp_path / other / name).read_bytes()


def test_a_layer_is_looked_at_when_it_has_just_been_written(
    capsys, tmp_path, source, monkeypatch
):
    """Or it would be read from the disk again, were the model a large one.

    And no other: a full disk in memory has no place for the holes of a file.
    """
    told, layer, part = [], copy.Writer.layer, Parts.layer
    check = Parts.check

    def write(self, index):
        told.append(("write", index))
        layer(self, index)

    def read(self, index):
        told.append(("read", index))
        return part(self, index)

    def look(self):
        if self.source != str(source):
            told.append(("look at", "all"))
        return check(self)

    monkeypatch.setattr(copy.Writer, "layer", write)
    monkeypatch.setattr(Parts, "layer", read)
    monkeypatch.setattr(Parts, "check", look)
    assert drop(capsys, source, "1,3", tmp_path / "out")[0] == 0
    expected = [("write", None)]
    for new, old in enumerate((0, 2, 4)):
        expected += [("write", new), ("read", old), ("read", new)]
    assert told == [*expected, ("look at", "all")]


def test_a_disk_that_fails_meanwhile_is_told(
    capsys, tmp_path, source, monkeypatch
):
    """An error of the disk comes once: whoever waits last hears nothing."""
    whole, failed, rest = os.fsync, [], copy.Writer.rest

    def fail(handle):
        """Once, for the first look at the weights."""
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.endswith(".safetensors") and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        whole(handle)

    def wait(self):
        """As a large model would."""
        rest(self)
        while not failed:
            time.sleep(0.01)

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(copy.Writer, "rest", wait)
    out = tmp_path / "out"
    code, _, err = drop(capsys, source, "1", out)
    assert (
        code == 1 and f"could not be written ({os.strerror(errno.EIO)})" in err
    )
    assert str(out) in err and os.listdir(tmp_path) == []


LIGHT = """
import sys
from speechllm import cli
assert not cli.main(["prune", sys.argv[1], "--plan", "1", "--output", sys.argv[2]])
heavy = "speechbrain", "peft", "av", "ruamel", "matplotlib", "pyarrow"
print("found", *(name for name in heavy if name in sys.modules))
"""


def test_nothing_is_imported_that_a_copy_does_not_need(tmp_path, source):
    command = [sys.executable, "-c", LIGHT, source, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "found", done.stdout + done.stderr


def test_a_family_that_does_not_stream_is_pruned_in_memory(capsys, tmp_path):
    source = saved("sarvam_moe", tmp_path / "m")
    AutoTokenizer.from_pretrained(
        make_decoder("qwen2", tmp_path / "q")
    ).save_pretrained(source)
    code, _, err = drop(capsys, source, "1,2", tmp_path / "out")
    assert code == 0 and "Holding it in memory" in err
    whole = AutoModelForCausalLM.from_pretrained(source).eval()
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(5)[None]
    with torch.no_grad():
        assert torch.equal(
            lm(ids).logits, drop_layers(whole, {1, 2})(ids).logits
        )


PEAK = """
import sys
from speechllm import cli
def run(source, out):
    assert not cli.main(["prune", source, "--plan", "1-2", "--output", out])
def peak():
    # Not ru_maxrss, which begins with that of the process that started this.
    with open("/proc/self/status") as stream:
        return int(stream.read().split("VmHWM:")[1].split()[0]) / 1024
run(sys.argv[1], sys.argv[3] + "/a")
before = peak()
run(sys.argv[2], sys.argv[3] + "/b")
print(peak() - before)
"""


def test_memory_is_that_of_a_tensor(source, tmp_path):
    folder = large(tmp_path / "large")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    size = (tmp_path / "large/model.safetensors").stat().st_size / 2**20
    assert size > 150
    assert float(run_child(PEAK, source, folder, tmp_path)) < 50


# ----------------------------------------------------------------------------
# Maps, folded in.


def text_rows(count, seed=0):
    torch.manual_seed(seed)
    return [torch.randint(3, 20, (9 + n % 4,)) for n in range(count)]


@pytest.mark.parametrize("removed", [{2, 3}, {1, 3}], ids=str)
def test_maps_are_those_fitted_in_memory(removed, source):
    """One fit after the other, the ridge by the loss, as for speech."""
    fitting, judging, strengths = text_rows(16), text_rows(6, 1), [0.01, 1.0]
    model = StreamedLM(source)
    both = Removal.of(removed, model.num_layers)
    found = fold_streamed_maps(
        model, both, batches_of(fitting, 4), batches_of(judging, 4), strengths
    )
    whole = Decoder.from_source(source)
    pruned = Decoder(
        drop_layers(whole.lm, removed), whole.tokenizer, kept=both.kept
    )

    def sequences(rows):
        rows = sorted(rows, key=len, reverse=True)
        batches = (rows[i : i + 4] for i in range(0, len(rows), 4))
        return [families.padded(whole, some, "right") for some in batches]

    expected = fit_in_sequence(
        whole,
        pruned,
        both.receiving,
        sequences(fitting),
        sequences(judging),
        strengths,
        form="folded",
    )
    assert found.keys() == expected.keys() == set(both.receiving)
    for place, one in expected.items():
        assert found[place].strength == one.strength
        assert found[place].positions == one.positions
        for strength, loss in one.losses.items():
            assert found[place].losses[strength] == pytest.approx(loss, 1e-6)
        torch.testing.assert_close(
            found[place].map.weight_DD, one.map.weight_DD, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("stream", [False, True])
def test_healed_is_a_plain_model(tmp_path, source, stream):
    rows = text_rows(40)
    decoder = load_text_model(source, stream=stream)
    out = tmp_path / "out"
    choice = Choice(layers=(1, 3))
    report, _ = prune(decoder, choice, str(out), rows, heal=True)
    lm, info = AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    held_out = text_prune.split_rows(rows)[1]
    assert report["perplexity_healed"] == pytest.approx(
        perplexity(lm, held_out), rel=1e-5
    )
    assert {"perplexity_before", "perplexity_after"} <= report.keys()
    # Nothing but the last matrix of the MLP before each gap is another one.
    plain = load_pruned(source, {1, 3}).state_dict()
    changed = {
        n for n, v in lm.state_dict().items() if not torch.equal(v, plain[n])
    }
    fitted = report["healing"]["map"]
    assert changed == {
        f"model.layers.{int(place) - 1}.mlp.down_proj.weight"
        for place, one in fitted.items()
        if one["ridge"] is not None
    }
    assert set(fitted) == {"1", "2"}


def test_the_least_loss_is_taken(tmp_path):
    """A layer that does nothing is not missed; no map may make it worse."""
    source = make_decoder("qwen2", tmp_path / "m")
    lm = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            lm.model.layers[1].get_submodule(name).weight.zero_()
    lm.save_pretrained(source)
    decoder = load_text_model(source, stream=True)
    out = str(tmp_path / "out")
    choice = Choice(layers=(1,))
    report, _ = prune(decoder, choice, out, text_rows(40), heal=True)
    assert report["perplexity_after"] == report["perplexity_before"]
    one = report["healing"]["map"]["1"]
    assert one["losses"][str(one["ridge"])] == min(one["losses"].values())


def test_maps_that_cannot_be(tmp_path, source, capsys):
    decoder = load_text_model(source, stream=True)
    rows = text_rows(40)
    for layers, some, why in (
        ((0, 1), rows, "keep layer 0"),
        ((1, 2), rows[:6], "give more data"),
    ):
        with pytest.raises(ValueError, match=why):
            prune(
                decoder,
                Choice(layers=layers),
                str(tmp_path / "out"),
                some,
                heal=True,
            )
    folder = saved("mixtral", tmp_path / "moe")
    model = StreamedLM(folder)
    with pytest.raises(TypeError, match="does not end in one matrix"):
        fold_streamed_maps(
            model,
            Removal.of({1, 2}, 6),
            batches_of(rows, 4),
            batches_of(rows, 4),
            [1.0],
        )
    assert not (tmp_path / "out").exists()
