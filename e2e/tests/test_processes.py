"""Processes and threads that come and go."""
import collections
import re
import time

import pytest
from conftest import Archive, Workload, start_recording, wait_started


def test_children_that_appear_later(python, workload, record):
    program = workload(python, "children.py", "--delay", "1.5", "--burn", "0.7")
    archive = record("--pid", program.pid, duration="9s")
    told = [line for line in program.seen_lines() if "how" in line]
    assert len(told) == 6, told
    archive.check_sound()
    recorded = {p["pid"]: p for p in archive.manifest["processes"]}
    for child in told:
        assert child["pid"] in recorded, "%s is not in the manifest" % child
        assert recorded[child["pid"]]["python"], child
        functions = collections.Counter(
            frame.function for sample in archive.trace.samples_of(pid=child["pid"]) for frame in sample.python())
        assert functions[child["function"]] >= 20, "%s: %s" % (child, functions.most_common(5))
    thread = next(child for child in told if child["how"] == "thread")
    assert len(archive.trace.samples_of(tid=thread["tid"])) >= 20


def test_target_that_exits_within_the_window(python, workload, record):
    program = workload(python, "short.py", "2.5")
    before = time.monotonic()
    archive = record("--pid", program.pid, duration="30s")
    assert time.monotonic() - before < 12, "the recording went on without a target"
    assert program.process.wait() == 7
    assert archive.manifest["end_reason"] == "target-exited"
    (process,) = archive.manifest["processes"]
    assert 500 <= process["exited_after_ms"] <= 3500, process
    assert any("ended" in note or "exited" in note for note in archive.manifest["notes"]), archive.manifest["notes"]
    archive.check_sound()
    functions = collections.Counter(s.python()[0].function for s in archive.trace.samples_of(pid=program.pid) if s.python())
    assert functions["short_lived"] >= 50, functions
    assert archive.report()["processes"][0]["pid"] == program.pid


def test_command_from_its_first_instruction(python, record):
    import conftest
    script = conftest.WORKLOADS / "short.py"
    import pathlib
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "command.aiprof.tar.gz"
        result = conftest.run("record", "--local", "-o", path, "--", python, script, "1.5")
        assert result.returncode == 0, result.stderr
        archive = Archive(path, result)
        # What runs before main: imports, seen as `_find_and_load`, is in the capture.
        functions = {f.function for s in archive.trace.samples for f in s.python()}
        assert "short_lived" in functions
        assert archive.manifest["end_reason"] == "target-exited"


def test_two_hundred_threads(python, workload, record):
    program = workload(python, "threads200.py")
    archive = record("--pid", program.pid, duration="4s")
    states = archive.check_sound()
    assert len(states) == 200, len(states)
    window = archive.end - archive.start
    for tid, slices in states.items():
        covered = slices[-1].end - slices[0].start
        assert abs(covered - window) < 30e6, "thread %d is covered for %.3f s of %.3f s" % (tid, covered / 1e9, window / 1e9)
    ticks = [s for s in archive.trace.slices if s.track == "State" and s.name.startswith("Waiting") and s.end - s.start > 50e6]
    assert len(ticks) > 197 * 20


def test_by_pattern(newest, workload, record):
    one = workload(newest, "steady.py")
    two = workload(newest, "threads200.py", "--threads", "5")
    archive = record("--process", "steady.py", duration="2s")
    pids = {p["pid"] for p in archive.manifest["processes"]}
    assert one.pid in pids and two.pid not in pids


def test_all_python_processes_of_a_namespace(newest, tmp_path):
    """--pid absent, one pattern that fits two processes: both are recorded, their threads apart."""
    with Workload(newest, "steady.py", "--seconds", "60") as one, Workload(newest, "steady.py", "--seconds", "60") as two:
        path = tmp_path / "both.aiprof.tar.gz"
        recording = start_recording(path, "--process", "steady.py", duration="3s")
        wait_started(recording)
        assert recording.wait(30) == 0
        archive = Archive(path, None)
        for program in (one, two):
            functions = {f.function for s in archive.trace.samples_of(pid=program.pid) for f in s.python()}
            assert {"worker", "middle", "leaf"} <= functions


@pytest.mark.parametrize("inside", [True, False], ids=["recorded-inside", "recorded-from-outside"])
def test_child_pid_namespace(python, tmp_path, inside):
    """Target in a PID namespace of its own, and the profiler either in it or outside."""
    import subprocess

    from conftest import AIPROF
    with Workload(python, "steady.py", prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")) as program:
        outer = next_child(program.pid)
        path = tmp_path / "namespace.aiprof.tar.gz"
        command = [AIPROF, "record", "--local", "--duration", "3s", "-o", str(path), "--progress", "plain", "--pid"]
        if inside:
            command = ["nsenter", "--target", str(outer), "--pid", "--mount", "--", *command, "1"]
            pid = 1
        else:
            command.append(str(outer))
            pid = outer
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        archive = Archive(path, result)
        archive.check_sound()
        samples = archive.trace.samples_of(pid=pid)
        functions = collections.Counter(f.function for s in samples for f in s.python())
        assert {"worker", "middle", "leaf"} <= set(functions), functions
        # One worker at a time holds the GIL: together they are sampled nearly all the time.
        assert len(samples) > 150
        python_names = [p["python"] for p in archive.manifest["processes"] if p["pid"] == pid]
        assert python_names and re.match(r"CPython 3\.\d+", python_names[0])


def next_child(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
        return int(file.read().split()[0])
