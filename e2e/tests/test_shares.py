"""CPU shares that are known are reported, and each thread's time divides into running, runnable and waiting."""
import collections

import pytest
from conftest import Workload, record_to

DURATION_S = 12
POINTS = 0.02


def truth_in(slices, start, end):
    """CPU time (ns) per function from `start` to `end` (CLOCK_MONOTONIC), of what the workload itself measured."""
    spent = collections.Counter()
    for (name, wall, cpu), (_, next_wall, next_cpu) in zip(slices, slices[1:]):
        overlap = min(end, next_wall) - max(start, wall)
        if overlap > 0 and next_wall > wall:
            spent[name] += (next_cpu - cpu) * overlap / (next_wall - wall)
    return spent


def share_of(counts):
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


class Shares:
    """One recording of shares.py."""

    def __init__(self, python, path):
        with Workload(python, "shares.py") as program:
            self.archive = record_to(path, "--pid", program.pid, duration="%ds" % DURATION_S)
            said = program.finish()
        self.pid = program.pid
        self.tids = program.ready["tids"]
        window = self.archive.monotonic(self.archive.start), self.archive.monotonic(self.archive.end)
        self.window_ns = window[1] - window[0]
        self.cpu_ns = truth_in(said["slices"], *window)
        self.truth = share_of(self.cpu_ns)


@pytest.fixture(scope="module")
def shares(python, tmp_path_factory):
    return Shares(python, tmp_path_factory.mktemp("shares") / "shares.aiprof.tar.gz")


def test_known_shares(shares):
    archive = shares.archive
    assert archive.manifest["dimensions"] == {"python": {"status": "complete"}, "cpu": {"status": "complete"}}
    assert set(shares.truth) == {"sixty", "thirty", "ten"}
    samples = archive.trace.samples_of(tid=shares.pid)
    leaves = [sample.python()[0].function if sample.python() else None for sample in samples]
    assert leaves.count(None) <= len(leaves) * 0.005, "samples without a Python stack"
    seen = share_of(collections.Counter(leaf for leaf in leaves if leaf))
    for name, share in shares.truth.items():
        assert abs(seen.get(name, 0) - share) <= POINTS, "%s: seen %s, true %s, %d samples" % (
            name, seen, shares.truth, len(samples))

    # As many samples as the thread had CPU time.
    due = sum(shares.cpu_ns.values()) / 1e9 * 99
    assert abs(len(samples) - due) <= due * 0.05 + 3, "%d samples where %d were due" % (len(samples), due)


def test_report_shows_the_shares(shares):
    """The same by the report: functions by self time; those three run in the main thread only."""
    report = shares.archive.report()
    process = next(p for p in report["processes"] if p["pid"] == shares.pid)
    own = {f["function"]: f["self_samples"] for f in process["functions"]["python_by_self"] if f["function"] in shares.truth}
    for name, share in shares.truth.items():
        assert abs(own.get(name, 0) / sum(own.values()) - share) <= POINTS, "report: %s, true %s" % (own, shares.truth)
    assert report["quality"]["complete"], report["quality"]

    threads = {thread["tid"]: thread["time"] for thread in process["threads"]}
    assert set(threads) >= {shares.pid, *shares.tids.values()}
    for tid, time in threads.items():
        parts = time["running_ns"] + time["runnable_ns"] + time["waiting_ns"]
        assert parts == time["observed_ns"], "thread %d: %s" % (tid, time)
    assert threads[shares.tids["sleeper"]]["waiting_share"] > 0.9
    assert threads[shares.tids["lock_waiter"]]["waiting_share"] > 0.99
    assert threads[shares.pid]["running_share"] + threads[shares.pid]["runnable_share"] > 0.9


def test_running_time_is_cpu_time(shares):
    archive = shares.archive
    states = archive.check_sound()
    for tid in [shares.pid, *shares.tids.values()]:
        slices = states[tid]
        assert slices[0].start - archive.start < 20e6, "thread %d has no state at the window's start" % tid
        assert archive.end - slices[-1].end < 20e6, "thread %d has no state at the window's end" % tid
    running = sum(s.end - s.start for s in states[shares.pid] if s.name == "Running")
    cpu = sum(shares.cpu_ns.values())
    assert abs(running - cpu) <= POINTS * shares.window_ns, "running %.3f s, CPU time %.3f s" % (running / 1e9, cpu / 1e9)


def test_waits_have_reason_and_stack(shares):
    trace = shares.archive.trace
    naps = [s for s in trace.of_thread(shares.tids["sleeper"], "State") if s.name.startswith("Waiting")]
    assert sum(s.end - s.start for s in naps) > 0.9 * shares.window_ns
    long_naps = [s for s in naps if s.end - s.start > 40e6]
    assert len(long_naps) >= 150
    for nap in long_naps[1:]:
        # Up to 3.10, `time.sleep` is a `select` without descriptors.
        assert any(call in nap.arguments["syscall"] for call in ("nanosleep", "select")), nap
        assert nap.stack, "a wait without a stack: %s" % nap
        assert [f.function for f in nap.stack if f.kind == "python"][0] == "sleeper", nap
    for name in ("queue_waiter", "lock_waiter"):
        waits = trace.of_thread(shares.tids[name], "State")
        waited = sum(s.end - s.start for s in waits if s.name.startswith("Waiting"))
        assert waited > 0.99 * shares.window_ns, "%s: %s" % (name, waits)


def test_c_code_without_the_gil_has_its_python_stack(shares):
    samples = shares.archive.trace.samples_of(tid=shares.tids["hasher"])
    assert len(samples) > 300, "the hashing thread was on a CPU for %d samples only" % len(samples)
    with_python = [s for s in samples if any(f.function == "hasher" for f in s.python())]
    assert len(with_python) >= 0.99 * len(samples)
    # The native leaf, in libcrypto or Python's own hash code, lies above the Python frame.
    native = [s for s in with_python if s.stack[0].kind == "native"]
    assert len(native) >= 0.9 * len(with_python)


@pytest.mark.parametrize("frequency", [10, 999])
def test_frequency(workload, record, frequency, newest):
    program = workload(newest, "shares.py")
    archive = record("--pid", program.pid, "--frequency", frequency, duration="4s")
    said = program.finish()
    cpu = sum(truth_in(said["slices"], archive.monotonic(archive.start), archive.monotonic(archive.end)).values()) / 1e9
    count = len(archive.trace.samples_of(tid=program.pid))
    # Each tick of the clock finds the thread on its CPU or not: four standard deviations of that, and some for the ends.
    share = min(1, cpu / ((archive.end - archive.start) / 1e9))
    expected = cpu * frequency
    tolerance = 4 * (expected * (1 - share)) ** 0.5 + 0.02 * expected + 3
    assert abs(count - expected) <= tolerance, "%d samples in %.2f s of CPU time" % (count, cpu)
