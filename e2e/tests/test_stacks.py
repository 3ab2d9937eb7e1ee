"""Python stacks are right, line by line."""
import collections
import json
import re
import subprocess

import pytest
from conftest import TOOLS, Workload, record_to

LIMIT = 128


def py_spy_dump(pid):
    """Stacks by thread id, leaf first, as (function, file, line), by another tool."""
    out = subprocess.run([str(TOOLS / "venv/bin/py-spy"), "dump", "--json", "--pid", str(pid)],
                         capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    return {
        thread["os_thread_id"]: [(f["name"], f["filename"], f["line"]) for f in thread["frames"]]
        for thread in json.loads(out.stdout)
    }


class Parked:
    """One recording of parked.py, and what py-spy sees of it."""

    def __init__(self, python, path, *arguments):
        with Workload(python, "parked.py", *arguments) as program:
            self.expected = py_spy_dump(program.pid)
            self.archive = record_to(path, "--pid", program.pid, duration="2s")
        self.tids = program.ready["tids"]
        assert len(self.tids) >= 30

    def waits(self, tid):
        """Waits of a thread that are long enough to be those of its place."""
        slices = self.archive.trace.of_thread(tid, "State")
        return [s for s in slices if s.name.startswith("Waiting") and s.end - s.start > 150e6]


@pytest.fixture(scope="module")
def waking(python, tmp_path_factory):
    return Parked(python, tmp_path_factory.mktemp("waking") / "waking.aiprof.tar.gz")


def test_parked_threads_equal_py_spy(waking):
    check_stacks(waking)


def test_threads_parked_for_ever_equal_py_spy(python, tmp_path):
    """Such a thread never comes to a CPU within the window."""
    check_stacks(Parked(python, tmp_path / "parked.aiprof.tar.gz", "--forever"))


def check_stacks(parked):
    parked.archive.check_sound()
    wrong, missing = [], []
    for name, tid in parked.tids.items():
        waits = parked.waits(tid)
        stacks = [[f.place for f in s.stack if f.kind == "python"] for s in waits if s.stack]
        if not stacks or len(stacks) < len(waits) - 1:
            missing.append("%s: %d waits, %d with a stack" % (name, len(waits), len(stacks)))
            continue
        want = parked.expected[tid]
        for wait, stack in zip([w for w in waits if w.stack], stacks):
            if stack != want[:LIMIT]:
                wrong.append("%s:\n  seen %s\n  true %s" % (name, stack[:12], want[:12]))
                break
            cut = any(f.kind == "marker" and "cut" in f.function for f in wait.stack)
            if cut != (len(want) > LIMIT):
                wrong.append("%s: %d frames, marked as cut: %s" % (name, len(want), cut))
                break
    assert not missing, "\n".join(missing)
    assert not wrong, "\n".join(wrong)


def test_python_track_shows_the_stack(waking):
    """In the middle of a wait, the nested slices of the Python track are the functions that py-spy sees."""
    wrong = []
    for name, tid in waking.tids.items():
        want = [place[0] for place in reversed(waking.expected[tid])]
        if len(want) > LIMIT:
            continue
        waits = waking.waits(tid)
        assert waits, name
        for wait in waits[1:]:
            middle = (wait.start + wait.end) // 2
            at = [s for s in waking.archive.trace.of_thread(tid, "Python") if s.start <= middle < s.end]
            seen = [re.sub(r" \([^()]*\)$", "", s.name) for s in sorted(at, key=lambda s: s.depth)]
            if seen != want:
                wrong.append("%s:\n  seen %s\n  true %s" % (name, seen, want))
                break
    assert not wrong, "\n".join(wrong)


def test_short_lived_code_has_no_stale_names(python, workload, record):
    program = workload(python, "churn.py")
    archive = record("--pid", program.pid, "--frequency", 999, duration="4s")
    archive.check_sound()
    last = 0
    seen = collections.Counter()
    for sample in archive.trace.samples_of(pid=program.pid):
        for frame in sample.python():
            made = re.fullmatch(r"<gen-(\d+)>", frame.file)
            if not made:
                assert not frame.function.startswith("f_"), frame
                continue
            number = int(made.group(1))
            first = number % 1000 + 1
            assert frame.function == "f_%d" % number, "a stale name: %s" % (frame,)
            assert first <= frame.line <= first + 5, "a stale line: %s" % (frame,)
            # Each function lives for about 2 ms, one after the other.
            assert number >= last, "%s was seen after f_%d" % (frame, last)
            last = number
            seen[number] += 1
    assert len(seen) > 500, "only %d functions were seen" % len(seen)
    made = program.finish()["made"]
    assert last <= made


def test_native_frames_lie_where_they_belong(newest, workload, record):
    """Frames of a thread in C code called from Python called from C: evaluator frames are replaced by Python's."""
    program = workload(newest, "parked.py")
    archive = record("--pid", program.pid, duration="2s")
    tid = program.ready["tids"]["in_c_callback"]
    waits = [s for s in archive.trace.of_thread(tid, "State") if s.name.startswith("Waiting") and s.stack]
    stack = max(waits, key=lambda s: s.end - s.start).stack
    kinds = [f.kind for f in stack]
    python = [f.function for f in stack if f.kind == "python"]
    assert python[:3] == ["park", "repeat", "in_sorted_key.<locals>.<lambda>"], python
    assert not any(f.function.startswith("_PyEval_EvalFrameDefault") for f in stack), stack
    # Kernel frames are innermost, then native ones.
    assert kinds.index("native") < kinds.index("python"), stack
    if "kernel" in kinds:
        assert max(i for i, k in enumerate(kinds) if k == "kernel") < kinds.index("native"), stack
    # sorted() and its key: native frames between the two Python functions.
    order = [i for i, f in enumerate(stack) if f.function in ("in_sorted_key.<locals>.<lambda>", "in_sorted_key")]
    between = stack[order[0] + 1:order[1]]
    assert any(f.kind == "native" and "sort" in f.function for f in between), between
    # And to the very thread start.
    assert any(f.function in ("start_thread", "clone3", "__clone3", "pythread_wrapper", "thread_run") for f in stack), stack
