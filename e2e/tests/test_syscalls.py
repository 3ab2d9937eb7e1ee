"""System calls: what is counted is what was called, and what strace and perf count too."""
import re
import shutil
import subprocess

import pytest

from conftest import start_recording, wait_started, Archive


def sums_of(trace, tid):
    """Calls of a thread, added up: name -> count, errors, total_ns, max_ns, errnos, histogram."""
    sums = {}
    for instant in trace.instants:
        if instant.tid != tid or instant.track != "Syscall sums":
            continue
        total = sums.setdefault(instant.name, {"count": 0, "errors": 0, "total_ns": 0, "max_ns": 0, "errnos": {}, "histogram": {}})
        for key, value in instant.arguments.items():
            if key.startswith("errno."):
                total["errnos"][key[len("errno."):]] = value
            elif key.startswith("below_ns."):
                total["histogram"][int(key[len("below_ns."):])] = value
            elif key == "max_ns":
                total[key] = max(total[key], value)
            else:
                total[key] += value
    return sums


@pytest.fixture
def calls(workload, newest, tmp_path):
    """Records the workload for one round; gives the archive and what it said it did."""

    def record(*arguments):
        program = workload(newest, "syscalls.py")
        path = tmp_path / "syscalls.aiprof.tar.gz"
        recording = start_recording(path, "--pid", program.pid, "--collect", "python,cpu,syscalls", *arguments)
        wait_started(recording)
        program.process.stdin.write("go\n")
        program.process.stdin.flush()
        done = program.line(lambda line: line.get("done"), timeout=60)
        recording.send_signal(2)
        assert recording.wait(60) == 0
        result = subprocess.CompletedProcess([], 0, "", "")
        return Archive(path, result), done

    return record


def test_counts_errors_and_times_are_the_programs(calls):
    archive, done = calls()
    archive.check_sound()
    sums = sums_of(archive.trace, done["tid"])
    for name, count in done["counts"].items():
        assert sums[name]["count"] == count, (name, sums[name])
        assert sum(sums[name]["histogram"].values()) == count
        assert sums[name]["errnos"] == done["errnos"].get(name, {})
        assert sums[name]["errors"] == sum(done["errnos"].get(name, {}).values())
    slept = sums["clock_nanosleep"]["total_ns"]
    asked = done["sleep_ns"] * done["counts"]["clock_nanosleep"]
    assert asked <= slept <= done["took_ns"]
    streams = archive.manifest["streams"]
    assert streams["syscalls"]["records"] >= sum(done["counts"].values())
    assert archive.manifest["dimensions"]["syscalls"] == {"status": "complete"}


def test_long_calls_are_slices_with_the_function_that_made_them(calls):
    archive, done = calls("--syscall-min", "5ms")
    slices = [s for s in archive.trace.of_thread(done["tid"], "Syscalls") if s.name == "clock_nanosleep"]
    assert len(slices) == done["counts"]["clock_nanosleep"]
    for one in slices:
        assert one.end - one.start >= done["sleep_ns"]
        assert one.arguments["result"] == 0
        assert one.arguments["arg.clock"] == "MONOTONIC"
        assert one.arguments["python"].startswith("slow_nap (syscalls.py):"), one
        assert [f.function for f in one.stack if f.kind == "python"][:2] == ["slow_nap", "calls"]
    # Nothing short is a slice.
    assert all(s.end - s.start >= 5_000_000 or "began_before" in s.arguments or "unfinished" in s.arguments
               for s in archive.trace.slices if s.track == "Syscalls")


def test_calls_in_flight_at_the_edges_are_cut_and_marked(calls):
    archive, done = calls()
    pid = archive.manifest["processes"][0]["pid"]
    reads = [s for s in archive.trace.of_thread(pid, "Syscalls") if s.name == "read"]
    first, last = reads[0], reads[-1]
    assert first.arguments["began_before"] and first.start == archive.start
    assert first.arguments["result"] == len("go\n")
    assert first.arguments["arg.file"] == "pipe"
    assert last.arguments["unfinished"] and "result" not in last.arguments
    waits = [s for s in archive.trace.of_thread(pid, "State") if s.arguments.get("syscall") == "read"]
    assert waits and all(s.arguments["on"] == "pipe" for s in waits)


def test_rates_are_a_counter_of_the_process(calls):
    archive, done = calls()
    pid = archive.manifest["processes"][0]["pid"]
    rates = [c for c in archive.trace.counters if c.track == "syscalls/s" and c.pid == pid]
    assert rates and max(c.value for c in rates) > 0


def test_only_system_calls_can_be_asked_for(record, workload, newest):
    program = workload(newest, "syscalls.py")
    archive = record("--pid", program.pid, "--collect", "syscalls", duration="500ms")
    assert list(archive.manifest["dimensions"]) == ["syscalls"]
    assert archive.trace.of_thread(program.pid, "Syscalls")


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_strace_counts_the_same(calls, workload, newest, tmp_path):
    archive, done = calls()
    ours = sums_of(archive.trace, done["tid"])
    program = workload(newest, "syscalls.py")
    out = tmp_path / "strace"
    strace = subprocess.Popen(["strace", "-c", "-f", "-o", str(out), "-p", str(program.pid)], stderr=subprocess.PIPE, text=True)
    assert "attached" in strace.stderr.readline()
    program.process.stdin.write("go\n")
    program.process.stdin.flush()
    program.line(lambda line: line.get("done"), timeout=120)
    strace.send_signal(2)
    strace.wait(30)
    counted = {}
    for line in out.read_text().splitlines():
        # % time, seconds, usecs/call, calls, errors if any, name
        match = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(\d+)?\s*(\w+)$", line)
        if match:
            counted[match[3]] = (int(match[1]), int(match[2] or 0))
    for name, count in done["counts"].items():
        if name in ("read", "write"):
            # Of the whole process: its main thread reads and writes a line too.
            assert count <= counted[name][0] <= count + 4, (name, counted[name])
            continue
        assert counted[name] == (ours[name]["count"], ours[name]["errors"]), name
