"""A process that has imported everything once, and is copied for each run.

The imports of a recipe take longer than the short runs of a small study. A
study with ``warm: true`` starts this server beside the graph::

    python workflow/warm.py SOCKET MODULE [MODULE ...]

and `study_run` asks it for a process that runs a script, as if typed. Where
no server answers (another machine, another system) scripts start as usual.
The socket lies in a folder that only its user may enter.
"""

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

# Where a study's server listens, for the processes of its runs.
VARIABLE = "SPEECHLLM_WARM"


def die_with_parent():
    """In a child: end when the parent is killed, and cannot tell us to."""
    death = 1  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(death, signal.SIGTERM)


def run_warm(place, command, folder, environment, log):
    """Have a script run by the server, to its end."""
    if not place or not command[0].endswith(".py"):
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(place)
        except OSError:
            return None
        request = {
            "command": command,
            "folder": str(folder),
            "environment": environment,
            "log": str(log),
        }
        server.sendall(json.dumps(request).encode() + b"\n")
        answer = _line(server)
    # No answer: server and run were killed.
    return json.loads(answer) if answer else -signal.SIGKILL


def _line(connection):
    """What the other side says up to the end of its line (bytes)."""
    with connection.makefile("rb") as stream:
        return stream.readline()


def serve(place):
    """Answer requests for ever; comes back in the process of each run."""

    def leave(*_):
        Path(place).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(place).parent.rmdir()
        os._exit(0)

    # Ctrl-C is for the runs; who starts us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    return _attend(connection)


def _attend(connection):
    """Fork the run and tell its end; comes back in the run's process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = _line(connection)
    if not request:
        os._exit(0)
    run = os.fork()
    if run == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die_with_parent()
        return json.loads(request)
    ended = os.pidfd_open(run)
    ready, _, _ = select.select([connection, ended], [], [])
    if ended not in ready:  # who asked is gone
        os.kill(run, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(status).encode() + b"\n")
    os._exit(0)


def main(argv):
    """Import, serve, and in each run's process run the script."""
    place, *modules = argv
    for module in modules:
        importlib.import_module(module)
    request = serve(place)
    script, *_ = sys.argv = request["command"]
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    with open(request["log"], "wb", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    # As Python does for a script; what is there is this file's folder.
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
