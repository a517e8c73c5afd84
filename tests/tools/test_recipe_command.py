"""A recipe's scripts as typed: their help, their faults, their end."""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import RECIPE

from speechbrain_ext.training.faults import ConfigError, Fault
from speechbrain_ext.training.measure import measure_parser
from speechbrain_ext.training.settings import speechllm_rules
from speechllm import command
from speechllm.recipe_help import recipe_help

ROOT = RECIPE.parents[3]


def typed(*words, cwd=RECIPE):
    """A script's exit code and what it said."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_help_shows_the_recipes_own_keys(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(RECIPE / "train.py"), "--help"])
    told = recipe_help([])
    yaml = (RECIPE / "hparams/train.yaml").read_text()
    keys = re.findall(r"^([a-z]\w*):", yaml.split("# Objects")[0], re.M)
    assert len(keys) > 50
    for key in keys:
        assert f"\n  --{key} " in told
    assert "fold er" not in told and "--data_folder DIR" in told
    assert "list utterances that cannot be used" in told.lower()
    assert max(map(len, told.splitlines())) < 80
    # Those of another recipe, by a variant of its own.
    other = ROOT / "recipes/OwnData/ASR/SpeechLLM/hparams/small.yaml"
    assert "--train_data" in recipe_help([str(other), "--help"])
    assert "\nTraining:\n" in recipe_help([str(other)])


def test_measures_help_has_its_own_options_too(capsys):
    def train_help(rest):
        assert rest == ["--help"]
        print("train.py's keys")
        raise SystemExit(0)

    from speechbrain_ext.training.measure import measure_command

    with pytest.raises(SystemExit) as ended:
        measure_command(["--help"], train_help)
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "train.py's keys" in said
    for option in ("--input", "--rule", "--layers", "--utterances"):
        assert option in said
    for name in ("--layers", "--sizes"):
        own, _ = measure_parser().parse_known_args([name, "2", "4"])
        assert own.sizes == [2, 4]


def test_a_missing_folder_is_told_with_the_other_faults(tmp_path):
    plain = {"data_folder": str(tmp_path / "gone"), "steps": -1}
    keys = [fault.key for fault in speechllm_rules(plain)]
    assert keys.count("data_folder") == 1 and "steps" in keys
    assert speechllm_rules({"data_folder": str(tmp_path)}) == []
    (tmp_path / "file").write_text("")
    (fault,) = speechllm_rules({"output_folder": f"{tmp_path}/file/run"})
    assert "file is a file: give another --results_folder" in str(fault)
    hub = {"data_folder": "someone/some-set"}
    assert len(speechllm_rules(hub)) == 1
    assert speechllm_rules({**hub, "cache_gigabytes": 2.0}) == []


def test_faults_of_a_recipe_end_it_with_2():
    words = ["train.py", "hparams/mini.yaml", "--data_folder", "/gone/x"]
    code, _, err = typed(*words, "--steps", "-1", "--device", "cpu")
    assert code == 2 and "Traceback" not in err
    assert "Error: hparams/mini.yaml has 3 faults:" in err
    assert "data_folder: /gone/x, is not there" in err and "steps: -1" in err


def test_how_a_script_ends(capsys, monkeypatch, tmp_path):
    def ends(error):
        def main():
            raise error

        with pytest.raises(BaseException) as ended:
            command.run_command(main)
        return ended.value, capsys.readouterr().err

    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    found, err = ends(ValueError("path_from: give another"))
    assert (found.code, err) == (2, "Error: path_from: give another\n")
    found, err = ends(KeyboardInterrupt())
    assert found.code == 130 and "the same command goes on" in err
    fault = ConfigError("x.yaml", [Fault("a", 1, "cannot be")])
    assert ends(fault)[0].code == 2
    assert isinstance(ends(RuntimeError("a bug"))[0], RuntimeError)
    # Of a library, it is a fault to be looked into.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path[1:]])

    def deep():
        import json

        json.loads("{")

    with pytest.raises(ValueError, match="Expecting property"):
        command.run_command(deep)
    monkeypatch.setenv("SPEECHLLM_DEBUG", "1")
    assert isinstance(ends(fault)[0], ConfigError)


def test_ctrl_c_ends_a_script_with_130(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from speechllm.command import run_command\n"
        "run_command(lambda: print('on', flush=True) or time.sleep(600))\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "Stopped" in err


def test_the_plan_of_a_fresh_clone(tmp_path):
    """`make -n` where nothing is installed says what is missing."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    done = subprocess.run(
        ["make", "-n", "paper-mini"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "make .venv/workflow, then make -n paper-mini" in done.stdout
    assert sorted(os.listdir(tmp_path)) == [
        "Makefile",
        "pyproject.toml",
        "setup.py",
    ]
