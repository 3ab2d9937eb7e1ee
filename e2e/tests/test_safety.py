"""The target comes first: whatever happens to the profiler or the plugin, it goes on untouched, and nothing stays behind."""
import ctypes
import os
import platform
import random
import signal
import time

import pytest
from conftest import Archive, run, start_recording, wait_started

BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
BPF_PROG_GET_NEXT_ID = 11
libc = ctypes.CDLL(None, use_errno=True)


def program_ids():
    """The ids of all eBPF programs of this kernel."""
    ids = set()
    attribute = (ctypes.c_uint32 * 32)()
    while libc.syscall(BPF_SYSCALL, BPF_PROG_GET_NEXT_ID, attribute, ctypes.sizeof(attribute)) == 0:
        ids.add(attribute[1])
        attribute[0] = attribute[1]
    return ids


def status(pid):
    with open("/proc/%d/status" % pid) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def profilers(parent=None):
    """Processes that are our profiler, by name, but not the plugin."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                facts = status(int(entry))
            except OSError:
                continue
            if facts.get("Name", "").startswith("aiprof-prof") and facts["State"][0] != "Z":
                if parent is None or int(facts["PPid"]) == parent:
                    found.append(int(entry))
    return found


def rounds_per_second(program, seconds=1.0):
    program.seen_lines()
    first = program.line(lambda line: "rounds" in line)
    time.sleep(seconds)
    last = ([line for line in program.seen_lines() if "rounds" in line] or [program.line()])[-1]
    return (last["rounds"] - first["rounds"]) * 1e9 / (last["ns"] - first["ns"])


def check_untouched(program, baseline):
    for tid in os.listdir("/proc/%d/task" % program.pid):
        facts = status(int(tid))
        assert facts["State"][0] in "RS", facts["State"]
        assert facts["TracerPid"].strip() == "0"
    rate = rounds_per_second(program)
    assert rate > 0.5 * baseline, "the target does %.0f rounds a second where it did %.0f" % (rate, baseline)


def wait_until(condition, timeout=8):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("victim", ["plugin", "profiler"])
def test_kill_nine_at_any_moment(newest, workload, tmp_path, victim):
    program = workload(newest, "steady.py")
    baseline = rounds_per_second(program)
    programs_before = program_ids()
    chance = random.Random(11)
    moments = [0.02, 0.08, 0.2, 0.5] + [chance.uniform(0.3, 2.5) for _ in range(5)]
    for number, moment in enumerate(moments):
        path = tmp_path / ("%d.aiprof.tar.gz" % number)
        recording = start_recording(path, "--pid", program.pid, duration="20s")
        time.sleep(moment)
        if victim == "plugin":
            os.kill(recording.pid, signal.SIGKILL)
        else:
            if not wait_until(lambda: profilers(recording.pid), 10):
                recording.kill()
                pytest.fail("no profiler process was found under the plugin")
            for pid in profilers(recording.pid):
                os.kill(pid, signal.SIGKILL)
        _, stderr = recording.communicate(timeout=20)
        assert wait_until(lambda: not profilers()), "a profiler is still there %s s after the kill" % moment
        assert wait_until(lambda: program_ids() <= programs_before), "eBPF programs were left behind"
        if victim == "profiler":
            assert recording.returncode in (1, 3), "exit code %s\n%s" % (recording.returncode, stderr)
            assert recording.returncode == 1 or path.exists()
        if path.exists():
            assert run("report", path).returncode == 0, "what was left is not a readable archive"
        for fact in (status(program.pid),):
            assert fact["TracerPid"].strip() == "0"
    check_untouched(program, baseline)


def test_target_is_never_stopped_or_traced(newest, workload, tmp_path):
    program = workload(newest, "steady.py")
    recording = start_recording(tmp_path / "x.aiprof.tar.gz", "--pid", program.pid, duration="3s")
    looks = 0
    while recording.poll() is None:
        facts = status(program.pid)
        assert facts["TracerPid"].strip() == "0" and facts["State"][0] in "RS", facts
        looks += 1
        time.sleep(0.005)
    assert recording.returncode == 0, recording.stderr.read()
    assert looks > 200


def test_interrupt_keeps_the_capture(newest, workload, tmp_path):
    program = workload(newest, "steady.py")
    path = tmp_path / "early.aiprof.tar.gz"
    recording = start_recording(path, "--pid", program.pid, duration="60s")
    wait_started(recording)
    time.sleep(2)
    recording.send_signal(signal.SIGINT)
    assert recording.wait(15) == 0
    archive = Archive(path, None)
    assert archive.manifest["end_reason"] == "stopped"
    assert 1500 <= archive.manifest["duration_ms"] <= 5000
    assert archive.trace.samples_of(pid=program.pid)
    assert not profilers()


def test_two_recorders_at_once(newest, workload, tmp_path):
    program = workload(newest, "steady.py")
    paths = [tmp_path / "a.aiprof.tar.gz", tmp_path / "b.aiprof.tar.gz"]
    recordings = [start_recording(path, "--pid", program.pid, duration="4s") for path in paths]
    for recording in recordings:
        _, stderr = recording.communicate(timeout=60)
        assert recording.returncode == 0, stderr
    archives = [Archive(path, None) for path in paths]
    counts = [len(archive.trace.samples_of(pid=program.pid)) for archive in archives]
    assert min(counts) > 250 and abs(counts[0] - counts[1]) < 0.15 * max(counts), counts
    for archive in archives:
        archive.check_sound()


def test_nothing_is_left_after_a_good_capture(newest, workload, record, tmp_path):
    program = workload(newest, "steady.py")
    programs_before = program_ids()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    record("--pid", program.pid, duration="2s", environment={"TMPDIR": str(temporary)})
    assert not profilers()
    assert wait_until(lambda: program_ids() <= programs_before)
    assert os.listdir(temporary) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["capture-0.aiprof.tar.gz", "tmp"]
    baseline = rounds_per_second(program)
    check_untouched(program, baseline)
