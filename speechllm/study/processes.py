"""How a run's command becomes a process, and which GPUs that may use.

The imports of a recipe take longer than the short runs of a small study. The
standard library's fork server has made them once, and is copied for each run.
Where runs are started by processes of their own, as Snakemake's are, one
process beside them has the server: `serve` answers them at a socket.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Client, Listener, wait
from pathlib import Path
from typing import cast

PRELOAD = [
    "speechbrain_ext.training.experiment",
    # Asked for late, and slow to come.
    "speechbrain_ext.model.encoder_fast",
]
# Where a study's server listens, for the processes of its runs.
VARIABLE = "SPEECHLLM_WARM"
# Two threads that look after processes would read one's status twice.
LOCK = threading.Lock()


def visible_gpus() -> list[str]:
    """Numbers of the GPUs of this machine."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [one for one in told.split(",") if one.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


@contextlib.contextmanager
def held_gpus(count: int, folder: Path) -> Iterator[dict[str, str]]:
    """Hold some GPUs for a run until it ends, or is killed."""
    if not count or "SLURM_JOB_ID" in os.environ:
        yield {}
        return
    gpus = visible_gpus()
    if len(gpus) < count:
        raise ValueError(
            f"cards: {count} wanted, this machine shows {len(gpus)}: set "
            "cards: in the configuration, or CUDA_VISIBLE_DEVICES"
        )
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        # A closed file frees its GPU.
        with contextlib.ExitStack() as locks:
            free = (one for one in gpus if _lock(folder, one, locks))
            held = [one for _, one in zip(range(count), free)]
            if len(held) == count:
                yield {"CUDA_VISIBLE_DEVICES": ",".join(held)}
                return
        time.sleep(1.0)


def _lock(folder, gpu, locks):
    """Whether nobody else held this GPU, which is ours then."""
    stream = open(folder / f"{gpu}.lock", "w", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return False
    locks.enter_context(stream)
    return True


def die_with_parent() -> None:
    """In a child: end when the parent is killed, and cannot tell us to."""
    death = 1  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(death, signal.SIGTERM)


def run_started(command, folder, environment, log, gpus=0) -> int:
    """Run a command in a fresh process, to its end; its exit status."""
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [*_starter(gpus), *command],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        try:
            return process.wait()
        except SystemExit:  # told to stop: a training saves first
            process.terminate()
            process.wait()
            raise


def _starter(gpus):
    """What stands before the script's name: Python, or torchrun's."""
    starter = [sys.executable]
    if gpus > 1:
        starter += ["-m", "torch.distributed.run", "--standalone"]
        starter += [f"--nproc_per_node={gpus}"]
    return starter


def is_script(command) -> bool:
    """Whether a command can run in a copy of the fork server."""
    return command[0].endswith(".py")


def run_forked(command, folder, environment, log, asker=None) -> int:
    """Run a script in a copy of the fork server, to its end; its status.

    It is ended when the connection of who asked for it closes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    given = (list(command), str(folder), dict(environment), str(log))
    process = context.Process(target=_run_script, args=given)
    with LOCK:
        process.start()
    ready = wait([process.sentinel, *([asker] if asker else [])])
    if process.sentinel not in ready:
        process.terminate()
        wait([process.sentinel])
    with LOCK:
        process.join()
    return cast(int, process.exitcode)


def _run_script(command, folder, environment, log):
    """In a process of its own: run a script, as if typed in its folder."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(log, "wb", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.path.insert(0, str(Path(command[0]).resolve().parent))
    sys.argv = command
    # Whoever started the fork server may have passed over Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        runpy.run_path(command[0], run_name="__main__")
    except KeyboardInterrupt:
        # Ended by the signal, as Python itself does: that is no failure.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        # A copied process ends without them.
        atexit._run_exitfuncs()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def serve(place: str, *modules: str) -> None:
    """Run scripts for whoever asks at a socket, for ever.

    The socket lies in a folder that only its user may enter. ``modules`` are
    imported in place of what recipes want.
    """
    PRELOAD[:] = modules or PRELOAD

    def leave(*_):
        Path(place).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(place).parent.rmdir()
        os._exit(0)

    # Ctrl-C is for the runs; who starts us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    with Listener(place, "AF_UNIX") as listener:
        while True:
            asker = listener.accept()
            threading.Thread(target=_attend, args=(asker,), daemon=True).start()


def _attend(asker):
    with asker, contextlib.suppress(EOFError, OSError):
        status = run_forked(**json.loads(asker.recv_bytes()), asker=asker)
        asker.send_bytes(json.dumps(status).encode())


def run_asked(place, command, folder, environment, log) -> int | None:
    """Have the server at a socket run a script; None where none answers."""
    if not place or not is_script(command):
        return None
    request = {
        "command": command,
        "folder": str(folder),
        "environment": environment,
        "log": str(log),
    }
    try:
        server = Client(place, "AF_UNIX")
    except OSError:
        return None
    with server:
        server.send_bytes(json.dumps(request).encode())
        try:
            return json.loads(server.recv_bytes())
        except (EOFError, OSError):
            # No answer: server and run were killed.
            return -signal.SIGKILL


if __name__ == "__main__":
    serve(*sys.argv[1:])
