"""Runs copied from a process that has imported everything: as if typed.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from speechllm.study.processes import run_asked

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="this system cannot watch a process"
)


@pytest.fixture
def server(tmp_path):
    """A server that has imported one module; its socket."""
    place = tmp_path / "own" / "warm"
    place.parent.mkdir()
    words = ["-m", "speechllm.study.processes", place, "fractions"]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
    _until(place.exists)
    yield str(place)
    process.terminate()
    process.wait(10)
    assert not place.parent.exists()


def _until(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def run(place, folder, code, *words):
    """Run a script of that code in the folder: status and what it said."""
    (folder / "script.py").write_text(code)
    command = ["script.py", *words]
    environment = {"COLOUR": "green", "PATH": os.environ["PATH"]}
    log = folder / "log"
    status = run_asked(place, command, str(folder), environment, log)
    return status, log.read_text() if log.exists() else None


def test_a_script_runs_as_if_typed(server, tmp_path):
    (tmp_path / "beside.py").write_text("word = 'beside'")
    code = (
        "import json, os, sys, beside\n"
        "print(json.dumps([sys.argv, os.getcwd(), dict(os.environ),"
        " 'fractions' in sys.modules, beside.word, __name__]))\n"
        "print('oh', file=sys.stderr)"
    )
    status, said = run(server, tmp_path, code, "--depth", "2")
    assert status == 0
    *printed, error = said.splitlines()
    argv, folder, variables, imported, beside, name = json.loads(printed[0])
    assert error == "oh"
    assert argv == ["script.py", "--depth", "2"]
    assert folder == str(tmp_path)
    assert variables["COLOUR"] == "green" and "HOME" not in variables
    assert imported and beside == "beside" and name == "__main__"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise ValueError('too deep')", 1, "ValueError: too deep"),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no such file')", 1, "no such file"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit; atexit.register(print, 'last')", 0, "last"),
        ("import atexit; atexit.register(print, 'last'); exit(2)", 2, "last"),
        ("import signal; signal.raise_signal(signal.SIGINT)", -2, ""),
    ],
)
def test_its_end_is_told(server, tmp_path, code, status, said):
    ended, text = run(server, tmp_path, code)
    assert ended == status
    assert said in text


def test_runs_know_nothing_of_each_other(server, tmp_path):
    code = "import fractions\nprint(hasattr(fractions, 'x'))\nfractions.x = 1"
    assert run(server, tmp_path, code) == (0, "False\n")
    assert run(server, tmp_path, code) == (0, "False\n")


def test_a_run_ends_with_who_asked_for_it(server, tmp_path):
    asking = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from speechllm.study.processes import run_asked\n"
        f"run_asked({server!r}, ['long.py'], {str(tmp_path)!r}, {{}}, 'log')"
    )
    (tmp_path / "long.py").write_text(
        "import os, time, pathlib\n"
        "pathlib.Path('pid.part').write_text(str(os.getpid()))\n"
        "os.rename('pid.part', 'pid')\n"
        "time.sleep(60)"
    )
    client = subprocess.Popen([sys.executable, "-c", asking], cwd=tmp_path)
    _until((tmp_path / "pid").exists)
    assert (tmp_path / "log").exists()
    pid = int((tmp_path / "pid").read_text())
    client.send_signal(signal.SIGKILL)
    client.wait()
    _until(lambda: not Path(f"/proc/{pid}").exists())


def test_two_run_at_once(server, tmp_path):
    """Each waits for a file that the other writes."""
    ended = {}
    for mine, other in (("a", "b"), ("b", "a")):
        (tmp_path / mine).mkdir()
        code = (
            "import pathlib, time\n"
            f"pathlib.Path('../{mine}.txt').touch()\n"
            "end = time.monotonic() + 20\n"
            f"while not pathlib.Path('../{other}.txt').exists():\n"
            "    assert time.monotonic() < end\n"
            "    time.sleep(0.02)"
        )

        def start(mine=mine, code=code):
            ended[mine] = run(server, tmp_path / mine, code)[0]

        threading.Thread(target=start).start()
    _until(lambda: len(ended) == 2, 30)
    assert ended == {"a": 0, "b": 0}


@pytest.mark.parametrize("place", [None, "nowhere"])
def test_without_a_server_nothing_is_run(tmp_path, place):
    place = place and str(tmp_path / place)
    assert run(place, tmp_path, "print(1)") == (None, None)


def test_modules_are_left_to_a_process_of_their_own(server, tmp_path):
    words = ["-m", "speechllm.report"]
    assert run_asked(server, words, str(tmp_path), {}, tmp_path / "log") is None
