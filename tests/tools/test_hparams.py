"""Variants over a base: what is merged, what is built, what is refused."""

import io
import json
import shutil
from pathlib import Path

import pytest
import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml

from speechbrain_ext.training.faults import ConfigError, Fault
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.settings import load_hparams, merge, parse_arguments

HERE = Path(__file__).parents[1]
TOP = HERE.parent
PUBLISHED = HERE / "published_configs"

BASE = """\
# ##########
# A full one
# ##########

seed: 1
__set_seed: !apply:random.seed [!ref <seed>]

# ---- Data ----
data_folder: !PLACEHOLDER  # e.g. /data
output: !ref results/<backbone[name]>/<seed>
splits:
    - train-a  # the first
    - train-b

# ---- Model ----
backbone: !include:models/backbones/big.yaml  # <- swap
rate: 1e-3
markers: false
prompt: "Say: {speech}"
betas: (0.9, 0.999)
cache: null
loader:
    batch_size: !ref <seed> * 2
    workers: 0

# ---- Objects ----
counter: !new:collections.Counter
    a: !ref <seed>
"""
BIG = "# A big one.\nname: Big\nsource: ./big  # beside\nlayers: 28\n"
SMALL = "name: Small\nsource: org/small\nlayers: 5\n"
VARIANT = """\
# python train.py small.yaml
base: train.yaml
backbone: !include:models/backbones/small.yaml
splits: [train-c]
loader:
    workers: 3
"""


@pytest.fixture
def folder(tmp_path):
    """A recipe's hparams folder, its models a link to the top one."""
    real = tmp_path / "top" / "backbones"
    real.mkdir(parents=True)
    (real / "big.yaml").write_text(BIG)
    (real / "small.yaml").write_text(SMALL)
    hparams = tmp_path / "recipe" / "hparams"
    hparams.mkdir(parents=True)
    (hparams / "models").symlink_to("../../top")
    (hparams / "train.yaml").write_text(BASE)
    (hparams / "small.yaml").write_text(VARIANT)
    return hparams


def refused(path, overrides=None, rules=()):
    """The error's text."""
    with pytest.raises(ConfigError) as error:
        load_hparams(str(path), overrides, rules)
    return str(error.value)


def variant(folder, text):
    """A variant's path."""
    (folder / "v.yaml").write_text("base: train.yaml\n" + text)
    return str(folder / "v.yaml")


DATA = {"data_folder": "/data"}


def test_a_variant_laid_over_its_base(folder):
    small = load_hparams(str(folder / "small.yaml"), DATA)
    assert small["backbone"]["name"] == "Small"
    assert small["output"] == "results/Small/1"
    assert small["splits"] == ["train-c"]
    assert small["loader"] == {"batch_size": 2, "workers": 3}
    assert small["rate"] == 0.001 and small["betas"] == (0.9, 0.999)
    assert small["counter"] == {"a": 1}
    assert "base" not in small and "__set_seed" not in small


def test_merged_text_changes_those_values_alone(folder):
    text = merge(str(folder / "small.yaml"))
    expected = VARIANT.split("base")[0] + BASE
    expected = expected.replace("big.yaml  #", "small.yaml #")
    expected = expected.replace("workers: 0", "workers: 3")
    listed = "splits:\n    - train-a  # the first\n    - train-b\n"
    assert text == expected.replace(listed, "splits: [train-c]\n")


def test_merging_nothing_is_the_identity(folder):
    assert merge(str(folder / "train.yaml")) == BASE


def test_merged_text_loads_in_hyperpyyaml_itself(folder, tmp_path):
    """Both loading forms give the same, wherever the text lies."""
    ours = load_hparams(str(folder / "small.yaml"), DATA)
    for place in (folder, tmp_path / "elsewhere"):
        place.mkdir(exist_ok=True)
        text = merge(str(folder / "small.yaml"), DATA, str(place))
        # HyperPyYAML cannot refer to an include from above it.
        text = text.replace("<backbone[name]>", "Small")
        (place / "full.yaml").write_text(text)
        with open(place / "full.yaml") as stream:
            assert load_hyperpyyaml(stream) == ours


def test_a_chain_of_bases_in_other_folders(folder, tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    (far / "a.yaml").write_text("base: ../recipe/hparams/small.yaml\nseed: 2\n")
    (far / "b.yaml").write_text("base: a.yaml\nrate: 0.5\n")
    loaded = load_hparams(str(far / "b.yaml"), DATA)
    assert (loaded["seed"], loaded["rate"]) == (2, 0.5)
    assert loaded["backbone"]["name"] == "Small"
    where = "!include:../recipe/hparams/models/backbones/small.yaml"
    assert where in merge(str(far / "b.yaml"))


def test_a_block_value_in_a_variant_is_moved_to_its_place(folder):
    path = variant(
        folder,
        "splits:\n  - x  # one\n  - y\nloader:\n  workers: 7\n"
        "counter: !new:collections.Counter\n  a: 5\n",
    )
    loaded = load_hparams(path, DATA)
    assert loaded["splits"] == ["x", "y"]
    assert loaded["counter"] == {"a": 5}
    assert "    workers: 7\n\n# ---- Objects ----" in merge(path)
    assert "    - x # one\n    - y\n\n# ---- Model ----" in merge(path)


def test_nested_blocks_take_the_bases_indentation(folder):
    nested = "group:\n    deep:\n        list: [a]\n        last: 1\n"
    (folder / "train.yaml").write_text(BASE + nested)
    text = "group:\n  deep:\n    list:\n      - b\n      - c\n"
    path = variant(folder, text)
    deep = {"list": ["b", "c"], "last": 1}
    assert load_hparams(path, DATA)["group"] == {"deep": deep}
    expected = (
        "        list:\n            - b\n            - c\n        last: 1"
    )
    assert expected in merge(path)


def test_a_replaced_lists_comments_go_with_it(folder):
    noted = BASE.replace("- train-b\n", "- train-b  # the second\n")
    (folder / "train.yaml").write_text(noted)
    assert "the second" in merge(str(folder / "train.yaml"))
    assert "the second" not in merge(str(folder / "small.yaml"))


def test_children_of_an_include_can_be_overridden(folder):
    """HyperPyYAML fails here."""
    path = str(folder / "train.yaml")
    changed = {**DATA, "backbone.source": "/folder"}
    backbone = load_hparams(path, changed)["backbone"]
    assert backbone == {"name": "Big", "source": "/folder", "layers": 28}
    nested = {**DATA, "backbone": {"source": "/folder"}}
    assert load_hparams(path, nested)["backbone"] == backbone
    in_yaml = variant(folder, "backbone:\n    source: /folder\n")
    assert load_hparams(in_yaml, DATA)["backbone"] == backbone
    text = merge(path, changed)
    assert "backbone: # <- swap\n    name: Big\n" in text


def test_a_whole_fragment_on_the_command_line(folder, monkeypatch):
    path = str(folder / "train.yaml")
    file = "models/backbones/small.yaml"
    words = {**DATA, "backbone.layers": 6, "backbone": file}
    backbone = load_hparams(path, words)["backbone"]
    assert backbone == {"name": "Small", "source": "org/small", "layers": 6}
    monkeypatch.chdir(folder / "models" / "backbones")
    here = load_hparams(path, {**DATA, "backbone": "small.yaml"})
    assert here["backbone"]["name"] == "Small"
    monkeypatch.chdir(folder)
    text = merge(path, {"backbone": file})
    assert f"backbone: !include:{file} # <- swap\n" in text
    monkeypatch.chdir(folder / "models" / "backbones")
    opened = variant(folder, "backbone:\n    layers: 9\n")
    again = load_hparams(opened, {**DATA, "backbone": "small.yaml"})
    assert again["backbone"]["layers"] == 5
    included = {**DATA, "backbone": f"!include:{file}"}
    assert load_hparams(path, included)["backbone"]["name"] == "Small"
    told = refused(path, {**DATA, "backbone": "tiny.yaml"})
    assert "backbone: tiny.yaml, no such file in" in told


def test_a_relative_source_is_the_fragments_own(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_hparams(str(folder / "train.yaml"), DATA)
    expected = tmp_path / "top" / "backbones" / "big"
    assert loaded["backbone"]["source"] == str(expected)
    linked = tmp_path / "linked.yaml"
    linked.symlink_to(folder / "train.yaml")
    again = load_hparams(str(linked), DATA)
    assert again["backbone"] == loaded["backbone"]


def test_the_command_line_of_speechbrain(folder):
    path = str(folder / "train.yaml")
    words = ["--data_folder", "/data", "--splits=[a, b]", "--rate", "1e-4"]
    words += ["--backbone.source", "/folder", "--loader.workers=2"]
    words += ["--markers", "True", "--prompt", "say: {speech}"]
    text = sb.parse_arguments([path, *words])[2]
    loaded = load_hparams(path, text)
    assert loaded["splits"] == ["a", "b"] and loaded["rate"] == 1e-4
    assert loaded["backbone"]["source"] == "/folder"
    assert loaded["loader"]["workers"] == 2 and loaded["markers"] is True
    assert loaded["prompt"] == "say: {speech}"
    assert load_hparams(path, parse_arguments([path, *words])[2]) == loaded
    block = "data_folder: /data\nloader:\n    workers: 4\n"
    assert load_hparams(path, block)["loader"]["workers"] == 4


def test_our_command_line_loses_nothing(folder):
    path = str(folder / "train.yaml")
    (folder / "train.yaml").write_text(BASE + "precision: fp32\n")
    words = ["--prompt", "a=b: {speech} # c", "--data_folder", "12"]
    words += ["--precision", "bf16", "--optimizer_step_limit", "3", "--debug"]
    file, run_opts, overrides = parse_arguments([path, *words])
    loaded = load_hparams(file, overrides)
    assert loaded["prompt"] == "a=b: {speech} # c"
    assert loaded["data_folder"] == "12" and loaded["precision"] == "bf16"
    assert run_opts.optimizer_step_limit == 3 and run_opts.debug
    assert "optimizer_step_limit" not in overrides
    with pytest.raises(SystemExit, match="step_limit many"):
        parse_arguments([path, "--optimizer_step_limit", "many"])


def test_an_override_may_be_an_object_and_no_anchor(folder):
    path = str(folder / "train.yaml")
    words = [path, "--data_folder=/d", "--counter", "!new:builtins.dict {b: 2}"]
    assert load_hparams(path, parse_arguments(words)[2])["counter"] == {"b": 2}
    told = refused(path, parse_arguments([*words, "--rate", "&a 1"])[2])
    assert "rate: &a 1, has an anchor" in told and "(command line)" in told


def test_all_faults_at_once(folder):
    path = variant(folder, "markes: true\nloader:\n    worker: 3\nrate: fast\n")
    wrong = {"backbone.sorce": "x", "seed": "3", "markers": "yes"}

    def rule(plain):
        assert "counter" not in plain and "data_folder" not in plain
        assert plain["output"] == "results/Big/3"
        yield Fault("backbone.layers", plain["backbone"]["layers"], "too many")

    told = refused(path, wrong, [rule])
    for line in (
        "has 8 faults",
        "markes: true, unknown key: did you mean markers? (",
        "loader.worker: 3, unknown key: did you mean loader.workers? (",
        "backbone.sorce: x, unknown key: did you mean backbone.source? (comm",
        "data_folder: give it with --data_folder DIR (",
        'rate: "fast", is a text where a number belongs: write a number, such',
        'seed: "3", is a text where a whole number belongs: write 3 without q',
        'markers: "yes", is a text where true or false belongs: write true',
        "backbone.layers: 28, too many (",
    ):
        assert line in told, told
    assert "v.yaml)" in told and "train.yaml)" in told


@pytest.mark.parametrize(
    "key, value, mend",
    [
        ("seed", 1.5, "a whole number belongs: write a number without"),
        ("seed", 1e5, "write 100000"),
        ("seed", True, "is true or false where a whole number"),
        ("seed", None, "is nothing where a whole number"),
        ("rate", "1e-4", "write 0.0001 without quotes"),
        ("markers", 1, "write true or false"),
        ("prompt", 7, 'write "7" with quotes'),
        ("splits", "a", "write [a]"),
        ("splits", [1, 2], "splits[0]: 1, is a whole number where a text"),
        ("loader", 3, "write keys below it"),
        ("backbone.layers", "many", "such as 28"),
        ("output", 3, "is a whole number where a text"),
    ],
)
def test_a_value_of_another_kind(folder, key, value, mend):
    told = refused(folder / "train.yaml", {**DATA, key: value})
    assert "has 1 fault:" in told or key == "splits"
    assert mend in told


def test_values_of_a_fitting_kind(folder):
    fits = {"rate": 1, "cache": "/c", "prompt": "7", "seed": -3, "splits": []}
    loaded = load_hparams(str(folder / "train.yaml"), {**DATA, **fits})
    assert {key: loaded[key] for key in fits} == fits
    raw = "data_folder: /d\nprompt: 7\nrate: 1\ncache: null"
    loaded = load_hparams(str(folder / "train.yaml"), raw)
    assert loaded["prompt"] == "7" and loaded["rate"] == 1


def test_files_that_are_not_there(folder):
    assert "YAML: " in refused(folder / "none.yaml")
    path = variant(folder, "backbone: !include:models/none.yaml\nsed: 2\n")
    told = refused(path)
    assert "no such file" in told and "models/none.yaml" in told
    assert "did you mean seed?" in told and "--data_folder" in told
    assert "has 3 faults" in told  # none for references into what is missing
    (folder / "v.yaml").write_text("base: none.yaml\n")
    assert "base: " in refused(folder / "v.yaml")


def test_circles(folder):
    (folder / "a.yaml").write_text("base: b.yaml\n")
    (folder / "b.yaml").write_text("base: a.yaml\n")
    assert "circle, a.yaml -> b.yaml -> a.yaml" in refused(folder / "a.yaml")
    big = folder / "models" / "backbones" / "big.yaml"
    big.write_text("name: Big\nagain: !include:big.yaml\n")
    told = refused(folder / "train.yaml", DATA)
    assert "circle, big.yaml -> big.yaml" in told


@pytest.mark.parametrize(
    "line, mend",
    [
        ("x: !ref <sed>/y", "<sed> is no key here: did you mean seed?"),
        ("x: !ref <backbone[nam]>", "did you mean backbone.name?"),
        ("x: !ref <seed>-<seed>", "would be reckoned out to 0"),
        ("x: !ref <seed>/<seed>", "would be reckoned out to 1.0"),
        ("x: !ref <seed>00", "would be reckoned out to 100"),
        ("x: !ref <counter.total> * 2", "use !applyref"),
        ("x: !ref n<counter>", "use !applyref"),
        ("x: !ref <y>\ny: !ref <seed>", "move y above"),
        ("x: !ref <y>/a\ny: !ref <x>/b", "leads back to x"),
        ("x: !ref <x>", "leads back to x"),
        ('x: "(a) and (b)"', "would be read as a tuple"),
        ("x: !new:collections.Conter", "nowhere to be found"),
        ("x: !include:<seed>.yaml", "a reference in an include's name"),
        ("x: &a 1", "use !ref <key>"),
        ("<<: !include:models/backbones/big.yaml", "put the include under"),
        ("seed: 2", "the key seed twice"),
        ("x: {y: !include:models/backbones/big.yaml }", "a line of its own"),
        ("x: [", "is no YAML"),
    ],
)
def test_traps(folder, line, mend):
    (folder / "train.yaml").write_text(f"{BASE}{line}\n")
    assert mend in refused(folder / "train.yaml", DATA)


@pytest.mark.parametrize(
    "line, value",
    [
        ("x: !ref <seed> - <seed>", 0),
        ("x: !ref <seed>*3", 3),
        ("x: !ref s<seed>-<seed>", "s1-1"),
        ("x: !ref <backbone[layers]> / 2", 14.0),
        ("x: !ref <y>/a\ny: !ref <seed>", "1/a"),
        ("x: !apply:os.path.join [a, b]", "a/b"),
        ("x: !ref <counter.a>\nz: 1", None),
    ],
)
def test_references_as_they_should_be(folder, line, value):
    (folder / "train.yaml").write_text(f"{BASE}{line}\n")
    if value is None:
        with pytest.raises(AttributeError):  # it is looked up, not a text
            load_hparams(str(folder / "train.yaml"), DATA)
    else:
        assert load_hparams(str(folder / "train.yaml"), DATA)["x"] == value


def test_fragments_hold_plain_data(folder):
    big = folder / "models" / "backbones" / "big.yaml"
    for bad in ("!new:collections.Counter", "!ref <name>", "!PLACEHOLDER"):
        big.write_text(f"{BIG}extra: {bad}\n")
        assert "hold plain data" in refused(folder / "train.yaml", DATA)
    big.write_text("# nothing\n")
    assert "is empty" in refused(folder / "train.yaml", DATA)


def test_an_include_with_a_body(folder):
    body = "!include:models/backbones/big.yaml\n    layers: 3"
    text = BASE.replace("!include:models/backbones/big.yaml", body)
    (folder / "train.yaml").write_text(text.replace("  # <- swap", ""))
    path = str(folder / "train.yaml")
    assert load_hparams(path, DATA)["backbone"]["layers"] == 3
    # HyperPyYAML keeps the old file here.
    swapped = variant(folder, VARIANT.split("\n", 2)[2])
    assert load_hparams(swapped, DATA)["backbone"]["name"] == "Small"
    (folder / "train.yaml").write_text(text.replace("layers: 3", "layer: 3"))
    assert "backbone.layer: 3, unknown key" in refused(path, DATA)


def test_nothing_is_built_before_all_is_checked(folder, tmp_path):
    made = tmp_path / "made"
    line = f"x: !apply:os.mkdir ['{made}']\ny: !applyref:os.mkdir ['{made}']\n"
    (folder / "train.yaml").write_text(BASE + line)
    refused(folder / "train.yaml", {"sed": 1})
    assert not made.exists()


# ---------------------------------------------------------------- the rules

GOOD = {
    "seed": 1,
    "run_name": "run",
    "train_splits": ["a"],
    "test_splits": [],
    "downsampling": 5,
    "projector_hidden": None,
    "speech_markers": False,
    "prompt": "{speech}\nTranscribe.",
    "chat_template": False,
    "prune_layers": 0,
    "path_from": "speech",
    "position": "target",
    "baseline": None,
    "healing": "both",
    "healing_parts": None,
    "adapt_attention": False,
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "precision": "bf16",
    "batch_size": 4,
    "batch_seconds": 20.0,
    "length_pool": 64,
    "test_batch_size": 4,
    "grad_accumulation_factor": 1,
    "steps": 100,
    "warmup_steps": 40,
    "warmdown_steps": 60,
    "lr_projector": 1e-3,
    "lr_adapter": 1e-3,
    "lr_bridge": 1e-3,
    "max_grad_norm": 1.0,
    "train_min_seconds": 1,
    "train_max_seconds": 10.0,
    "valid_interval": 1,
    "checkpoint_interval": 1,
    "keep": "best",
    "start_from": None,
    "objective": "answer",
    "projector_dropout": 0.1,
    "weight_decay": 0.01,
    "speed_perturb": [0.9, 1.1],
    "noise_snr": [10],
    "gradient_checkpointing": False,
    "max_new_tokens": 10,
    "cache_features": None,
}


def test_the_rules_pass_what_is_good_and_what_is_missing():
    assert speechllm_rules(GOOD) == [] and speechllm_rules({}) == []


@pytest.mark.parametrize(
    "key, values",
    [
        ("downsampling", [0, 1.5, True, "5"]),
        ("projector_hidden", [0, "wide", True]),
        ("train_splits", [[], "a", [1], ["a", "a"]]),
        ("test_splits", ["a", [1], ["a", "a"], None]),
        ("speech_markers", [0, "no"]),
        ("prompt", ["", "no place", "{speech} {speech}", None]),
        ("prompt", ["{bos}{speech}{bos}", "{speech}{target}."]),
        ("train_min_seconds", [-1, "1", None, float("nan"), 11]),
        ("train_max_seconds", [-1, "10", None, float("inf")]),
        ("prune_layers", [-1, 1.0]),
        ("path_from", ["nowhere.json", "", 3]),
        ("position", ["end"]),
        ("baseline", [3, "", __file__]),
        ("healing", ["all", None, ["both"]]),
        ("lora_rank", [0]),
        ("lora_alpha", [0, -1, float("nan"), float("inf")]),
        ("lora_dropout", [1, -0.1, "0", float("nan")]),
        ("precision", ["fp8"]),
        ("batch_size", [0]),
        ("batch_seconds", [0, -1, "240", float("inf"), 9.9]),
        ("length_pool", [0, 1.5, None]),
        ("grad_accumulation_factor", [0]),
        ("steps", [-1, 99]),
        ("warmup_steps", [-1, 41]),
        ("lr_projector", [0, -1e-3, "1e-3"]),
        ("lr_adapter", [0]),
        ("lr_bridge", [0, None]),
        ("healing_parts", ["mine.yaml", {}, 3]),
        ("max_grad_norm", [0, -1]),
        ("valid_interval", [0]),
        ("checkpoint_interval", [0]),
        ("keep", ["newest", None, 1]),
        ("start_from", [1]),
        ("objective", ["nll", None]),
        ("projector_dropout", [1, -0.1, None]),
        ("weight_decay", [1, -0.1, "small"]),
        ("speed_perturb", [0.9, [1], [3], [0.9, 0.9], ["fast"]]),
        ("noise_snr", [10, None, [10, 10], ["loud"]]),
        ("format", ["wav", 3]),
        ("train_data", ["", 3]),
        ("split.valid", [0, -1, "ten"]),
        ("split.seed", [-1, None]),
        ("split.dev", [10]),
        ("max_new_tokens", [0]),
        ("cache_features", [3, __file__]),
    ],
)
def test_each_rule_refuses(key, values):
    for value in values:
        part, _, word = key.partition(".")
        faults = speechllm_rules(
            {**GOOD, part: {word: value} if word else value}
        )
        assert faults, f"{key}: {value!r} passed"
        assert all(key in str(fault) for fault in faults)


def test_a_fault_of_a_list_is_told_with_the_others():
    faults = speechllm_rules({"train_splits": ["a", "a"], "steps": -1})
    told = ConfigError("x.yaml", [*faults, *faults])
    assert len(told.faults) == len(faults) == 2
    assert "train_splits: [a, a], write a list" in str(told)


def test_a_tokenizer_that_is_not_installed_is_told_before(monkeypatch):
    from sacrebleu.tokenizers import tokenizer_ja_mecab

    assert speechllm_rules({"target_language": "ja"}) == []
    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    (fault,) = speechllm_rules({"target_language": "ja"})
    assert "pip install 'sacrebleu[ja]'" in str(fault)
    assert speechllm_rules({"target_language": "zh-CN"}) == []


@pytest.mark.parametrize(
    "key", ["language", "source_language", "target_language"]
)
def test_a_language_is_told_by_its_code(key):
    for good in ("de", "pt-BR", "yue", "zh_Hant"):
        assert speechllm_rules({key: good}) == []
    for bad in ("german", "d", "de en", "", 3):
        (fault,) = speechllm_rules({key: bad})
        assert str(fault).startswith(f"{key}: ")


@pytest.mark.parametrize(
    "key, value",
    [
        ("rank", 3),
        ("projector", "yes"),
        ("adapters", True),
        ("adapters.where", "before"),
        ("adapters.where", []),
        ("adapters.where", [1, 1]),
        ("adapters.modules", "norms"),
        ("adapters.rank", 0),
        ("adapters.budget", "all"),
        ("adapters.layers", [1]),
        ("bridge.rank", "half"),
        ("bridge.start", "zero"),
        ("bridge.form", "free"),
        ("bridge.form", "folded"),
        ("map.utterances", 0),
        ("map.ridge", []),
        ("map.ridge", [0]),
        ("map.positions", "last"),
        ("distillation.weight", 1.5),
        ("distillation.temperature", 0),
    ],
)
def test_each_rule_of_ones_own_healing_refuses(key, value):
    good = {
        "projector": True,
        "adapters": {"where": [0, 2], "modules": "both", "budget": "paper"},
        "bridge": {"rank": "full"},
        "map": {"ridge": [0.1]},
        "distillation": {"weight": 1.0},
    }
    mine = {**GOOD, "healing": "mine", "healing_parts": good}
    assert speechllm_rules(mine) == []
    part, _, word = key.partition(".")
    bad = {**good, part: {**good.get(part, {}), word: value} if word else value}
    faults = speechllm_rules({**mine, "healing_parts": bad})
    assert [fault.key for fault in faults] == [f"healing_parts.{key}"]


def test_ones_own_healing_fits_the_backbone_and_has_a_name():
    mine = {
        "healing": "mine",
        "healing_parts": {"adapters": {"where": [0, 20]}},
        "backbone": backbone("Qwen2.5-7B", PUBLISHED / "qwen2.5-7b"),
        "prune_layers": 8,
    }
    (fault,) = speechllm_rules(mine)
    assert "20 layers are kept: choose 0 to 19" in str(fault)
    mine["healing_parts"] = {"bridge": {"rank": 3584}}
    (fault,) = speechllm_rules(mine)
    assert "the stream is 3584 wide" in str(fault)
    mine["healing_parts"] = {"projector": True}
    assert speechllm_rules(mine) == []
    for name in ("both", "map", "a name", None):
        (fault,) = speechllm_rules({**mine, "healing": name})
        assert fault.key == "healing" and "another name" in fault.mend
    idle = {"distillation": {}, "bridge": {"start": "map", "form": "fixed"}}
    (fault,) = speechllm_rules({**mine, "healing_parts": idle})
    assert "nothing is trained" in str(fault)
    two = {"adapters": {"rank": 2, "budget": 900}}
    (fault,) = speechllm_rules({**mine, "healing_parts": two})
    assert "a rank is given too" in str(fault)


def test_a_pruned_run_needs_its_baseline(tmp_path):
    told = [str(f) for f in speechllm_rules({**GOOD, "prune_layers": 2})]
    assert len(told) == 1 and "--prune_layers 0" in told[0]
    gone = {**GOOD, "prune_layers": 2, "baseline": str(tmp_path / "gone")}
    assert "is not there" in str(speechllm_rules(gone)[0])
    there = {**GOOD, "prune_layers": 2, "baseline": str(tmp_path)}

    def told():
        return "".join(map(str, speechllm_rules(there)))

    assert "holds no trained system" in told()
    (tmp_path / "trained").mkdir()
    system, result = tmp_path / "trained/system.json", tmp_path / "result.json"
    system.write_text('{"layers": 3, "kept_layers": [0, 2]}')
    assert "was pruned, it keeps 2 of 3" in told()
    system.write_text('{"layers": 2, "kept_layers": [0, 1]}')
    assert "result.json cannot be read" in told()
    result.write_text('{"status": "running"}')
    assert "is not finished" in told()
    result.write_text('{"status": "done"}')
    assert told() == ""


def test_encoder_options_have_their_values():
    encoder = {"output_norm": 1, "normalise_input": "yes", "max_seconds": 0}
    encoder["window"] = 30
    faults = speechllm_rules(
        {"speech_encoder": {**encoder, "outputnorm": True}}
    )
    assert {fault.key.partition(".")[2] for fault in faults} == {
        *encoder,
        "outputnorm",
    }
    encoder = dict(output_norm=True, normalise_input=None, max_seconds=20)
    assert speechllm_rules({"speech_encoder": encoder}) == []
    own = {"window": "own", "kind": "whisper"}
    assert speechllm_rules({"speech_encoder": own}) == []
    (fault,) = speechllm_rules({"speech_encoder": {**own, "kind": "wavlm"}})
    assert str(fault).startswith("speech_encoder.window: own, but wavlm always")


def backbone(name, source, **more):
    return {"name": name, "source": str(source), "family": "Qwen2", **more}


def test_the_depth_is_the_configs_own():
    seven = backbone("Qwen2.5-7B", PUBLISHED / "qwen2.5-7b")
    pruned = {"backbone": seven, "prune_layers": 30}
    (fault,) = speechllm_rules(pruned)
    assert str(fault) == (
        "prune_layers: 30, but Qwen2.5-7B has 28 layers and one must stay "
        "to receive: choose 1 to 27"
    )
    assert len(speechllm_rules({**pruned, "prune_layers": 28})) == 1
    assert speechllm_rules({**pruned, "prune_layers": 27}) == []


def test_a_config_that_cannot_be_had(tmp_path):
    for source in (tmp_path, "./nowhere", "org/not-in-the-cache"):
        (fault,) = speechllm_rules({"backbone": backbone("x", source)})
        assert fault.key == "backbone.source"
        assert str(source).lstrip(".") in str(fault) and "give" in fault.mend
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (fault,) = speechllm_rules({"backbone": backbone("x", tmp_path)})
    assert "gpt2" in fault.mend
    encoder = {"kind": "wavlm", "source": str(PUBLISHED / "whisper-large-v3")}
    (fault,) = speechllm_rules({"speech_encoder": encoder})
    assert "give --speech_encoder.kind whisper" in fault.mend


# ------------------------------------------- fragments and published configs

BACKBONES = {  # depth, width, and Table 1's layers dropped and percentages
    "qwen2.5-1.5b": (28, 1536, {7: 25.0}),
    "qwen2.5-3b": (36, 2048, {11: 30.6}),
    "qwen2.5-7b": (28, 3584, {8: 28.6, 5: 17.9}),
    "llama3.2-1b": (16, 2048, {1: 6.3}),
    "llama3.2-3b": (28, 3072, {11: 39.3}),
    "llama3.1-8b": (32, 4096, {14: 43.8}),
    "smollm2-135m": (30, 576, {}),
    "smollm2-360m": (32, 960, {}),
    "qwen2.5-0.5b": (24, 896, {}),
}
ENCODERS = {  # depth, width, mel bands of a Whisper
    "wavlm-large": (24, 1024, None),
    "whisper-large-v3": (32, 1280, 128),
    "wavlm-base-plus": (12, 768, None),
    "whisper-base": (6, 512, 80),
}


@pytest.mark.parametrize("stem", BACKBONES)
def test_backbone_fragments_and_their_configs(stem, tmp_path):
    from transformers import AutoConfig

    depth, width, dropped = BACKBONES[stem]
    shutil.copytree(TOP / "hparams", tmp_path / "models")
    text = f"backbone: !include:models/backbones/{stem}.yaml\nprune_layers: 0\n"
    (tmp_path / "train.yaml").write_text(text)
    source = {"backbone.source": str(PUBLISHED / stem)}
    path, rules = str(tmp_path / "train.yaml"), [speechllm_rules]
    fragment = load_hparams(path, source, rules)["backbone"]
    config = AutoConfig.from_pretrained(fragment["source"])
    assert config.num_hidden_layers == depth and config.hidden_size == width
    assert config.model_type == fragment["family"].lower()
    written = load_hparams(path)["backbone"]
    assert written["source"].endswith("/" + written["name"])
    for layers, percent in dropped.items():
        load_hparams(path, {**source, "prune_layers": layers}, rules)
        assert f"{100 * layers / depth:.1f}" == str(percent) or (
            abs(100 * layers / depth - percent) <= 0.0501
        )
    head = (TOP / "hparams" / "backbones" / f"{stem}.yaml").read_text()
    assert f"{depth} layers, {width} wide" in head


@pytest.mark.parametrize("stem", ENCODERS)
def test_encoder_fragments_and_their_configs(stem):
    from transformers import AutoConfig

    depth, width, bands = ENCODERS[stem]
    file = TOP / "hparams" / "encoders" / f"{stem}.yaml"
    fragment = load_hyperpyyaml(io.StringIO(file.read_text()))
    fragment["source"] = str(PUBLISHED / stem)
    assert speechllm_rules({"speech_encoder": fragment}) == []
    config = AutoConfig.from_pretrained(fragment["source"])
    assert config.num_hidden_layers == depth
    assert config.hidden_size == width
    assert getattr(config, "num_mel_bins", None) == bands
    assert f"{depth} layers, {width} wide" in file.read_text()


def test_parameters_of_the_published_configs():
    """The sizes in the models' names, counted without making weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    billions = [1.54, 3.09, 7.62, 1.24, 3.21, 8.03, 0.13, 0.36, 0.49]
    for stem, expected in zip(BACKBONES, billions, strict=True):
        config = AutoConfig.from_pretrained(PUBLISHED / stem)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
        count = sum(p.numel() for p in model.parameters())
        assert round(count / 1e9, 2) == expected, stem
