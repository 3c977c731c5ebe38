"""Processes: started, pinned, measured, and ended whatever happens."""

import ctypes
import os
import re
import signal
import subprocess
import sys
from pathlib import Path


class Stop(Exception):
    """Ends the run with one sentence."""


STARTED = []


def end_with_parent():
    """In the child: SIGTERM when the parent dies, so that even `kill -9` leaves nothing behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def spawn(command, core=None, **options):
    """Starts a process that `end_all` will end."""
    if core is not None:
        command = ["taskset", "-c", str(core), *map(str, command)]
    process = subprocess.Popen(
        list(map(str, command)), preexec_fn=end_with_parent, stdin=subprocess.DEVNULL, start_new_session=True, **options
    )
    STARTED.append(process)
    return process


def end(process):
    """SIGTERM, and SIGKILL for what is still there after five seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in STARTED:
        STARTED.remove(process)


def end_all():
    for process in list(reversed(STARTED)):
        end(process)


def run(program):
    """The exit status of a program: what it returns, or 1 after the sentence of a Stop. Nothing that it started is left."""
    try:
        return program()
    except Stop as stop:
        print(f"bench: {stop}", file=sys.stderr)
        return 1
    finally:
        end_all()


def processes(pid):
    """The process and its children (nginx: master and worker)."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            pids += map(int, (task / "children").read_text().split())
        except OSError:
            pass
    return pids


def cpu_seconds(pid):
    """CPU time used so far, user and system, in steps of a clock tick.

    Of the processes, not of their threads: a thread that has ended took its own account along.
    """
    total = 0
    for process in processes(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def pin(pid, core):
    for process in processes(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def memory_mib(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024
