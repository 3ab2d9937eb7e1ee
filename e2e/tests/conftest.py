"""Fixtures of the end-to-end tests: real Python programs, recorded by the real plugin with the real profiler inside.

AIPROF names the plugin (default: target/release/kubectl-aiprof). The tests need root; without it they say so and are
skipped, and with CI=true they fail.
"""
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import perfetto_trace  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKLOADS = ROOT / "e2e" / "workloads"
TOOLS = ROOT / "target" / "e2e"
AIPROF = os.environ.get("AIPROF", str(ROOT / "target/release/kubectl-aiprof"))


def interpreters():
    listed = TOOLS / "interpreters"
    return [pathlib.Path(line) for line in listed.read_text().split()] if listed.exists() else []


def version_of(interpreter):
    return re.search(r"3\.(\d+)", pathlib.Path(interpreter).name).group(0)


def pytest_generate_tests(metafunc):
    marks = metafunc.definition.iter_markers("parametrize")
    if "python" in metafunc.fixturenames and not any(mark.args[0] == "python" for mark in marks):
        metafunc.parametrize("python", interpreters(), ids=version_of, scope="module")


def pytest_sessionstart(session):
    if os.geteuid() != 0 and os.environ.get("CI") == "true":
        pytest.exit("the end-to-end tests need root, and in CI they must run", returncode=1)
    if not os.access(AIPROF, os.X_OK):
        pytest.exit("there is no plugin at %s: run make build, or set AIPROF" % AIPROF, returncode=1)
    if not interpreters():
        pytest.exit("no interpreters: run scripts/setup/python.sh", returncode=1)


@pytest.fixture(autouse=True)
def needs_root(request):
    if os.geteuid() != 0 and not request.node.get_closest_marker("no_root"):
        pytest.skip("recording a live process needs root")


def pytest_configure(config):
    config.addinivalue_line("markers", "no_root: does not need root")


class Workload:
    """A running Python program: its first line of output is JSON with "ready" and its process id."""

    def __init__(self, interpreter, script, *arguments, prefix=(), wait=True):
        self.process = subprocess.Popen(
            [*prefix, str(interpreter), str(WORKLOADS / script) if not os.path.isabs(str(script)) else str(script),
             *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self.line(lambda line: line.get("ready")) if wait else {}
        self.pid = self.ready.get("pid", self.process.pid)
        if prefix:
            # Within a namespace the program knows itself by another id.
            self.inner_pid, self.pid = self.pid, self.process.pid

    def _read(self):
        for line in self.process.stdout:
            try:
                self.lines.put(json.loads(line))
            except ValueError:
                pass
        self.lines.put(None)

    def line(self, wanted=lambda _: True, timeout=30):
        """The next line of output that is wanted."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, "the workload ended"
            if wanted(line):
                return line

    def seen_lines(self):
        """All lines so far."""
        lines = []
        while not self.lines.empty():
            line = self.lines.get()
            if line is not None:
                lines.append(line)
        return lines

    def finish(self, timeout=30):
        """Asks it to end, and returns its last line."""
        self.process.terminate()
        self.process.wait(timeout)
        time.sleep(0.1)
        lines = self.seen_lines()
        return lines[-1] if lines else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdin.close()


@pytest.fixture
def workload():
    """Starts workloads, and ends them with the test."""
    running = []

    def start(*arguments, **options):
        running.append(Workload(*arguments, **options))
        return running[-1]

    yield start
    for one in running:
        one.__exit__()


class Archive:
    """What a recording left."""

    def __init__(self, path, result):
        self.path = path
        self.result = result
        self.manifest, self.trace = perfetto_trace.read_archive(path)
        self.start = self.manifest["clock"]["boottime_ns"]
        self.end = self.start + self.manifest["duration_ms"] * 1_000_000

    def report(self):
        """The report as JSON."""
        out = run("report", self.path, "-o", "json", "--top", "1000")
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    def monotonic(self, boottime_ns):
        """A time of the trace in CLOCK_MONOTONIC."""
        clock = self.manifest["clock"]
        return boottime_ns - clock["boottime_ns"] + clock["monotonic_ns"]

    def check_sound(self):
        """What holds for every capture: nothing lost, state slices without gaps, nested Python slices within the window."""
        for name, stream in self.manifest["streams"].items():
            assert stream["lost"] == 0, "stream %s lost records: %s" % (name, stream)
        by_track = {}
        for slice_ in self.trace.slices:
            if slice_.track == "State":
                by_track.setdefault(slice_.tid, []).append(slice_)
        for tid, slices in by_track.items():
            for before, after in zip(slices, slices[1:]):
                assert after.start == before.end, "a gap of %d ns in the states of thread %d: %s, %s" % (
                    after.start - before.end, tid, before, after)
        return by_track


def run(*arguments, timeout=120, **options):
    return subprocess.run([AIPROF, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, **options)


@pytest.fixture
def aiprof():
    """Runs the plugin."""
    return run


def record_to(path, *arguments, duration="3s", codes=(0,), environment=None):
    """Records processes of this machine and reads the archive; `codes` are the exit codes that are right."""
    result = run("record", "--local", *arguments, "--duration", duration, "-o", path, "--progress", "plain",
                 env={**os.environ, **(environment or {})})
    assert result.returncode in codes, "exit code %d\n%s%s" % (result.returncode, result.stdout, result.stderr)
    return Archive(path, result)


@pytest.fixture
def record(tmp_path):
    """`record_to` a new file."""
    counter = iter(range(1000))
    return lambda *arguments, **options: record_to(
        tmp_path / ("capture-%d.aiprof.tar.gz" % next(counter)), *arguments, **options)


def start_recording(path, *arguments, duration="30s", prefix=(), **options):
    """A recording that runs; it is the caller's to end."""
    return subprocess.Popen(
        [*prefix, AIPROF, "record", "--local", *map(str, arguments), "--duration", duration, "-o", str(path),
         "--progress", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )


def wait_started(recording, timeout=20):
    """Waits until the window of a recording is open."""
    started = threading.Event()

    def read():
        for line in recording.stderr:
            if '"started"' in line:
                started.set()

    threading.Thread(target=read, daemon=True).start()
    assert started.wait(timeout), "the window did not open: exit code %s" % recording.poll()


@pytest.fixture
def open_folder():
    """A folder of /tmp that every user may read."""
    import tempfile
    folder = pathlib.Path(tempfile.mkdtemp(prefix="aiprof-e2e-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def newest():
    """One interpreter for tests whose subject is not the interpreter: 3.12, what vLLM's images have, where there is one."""
    return next((p for p in interpreters() if version_of(p) == "3.12"), interpreters()[-1])
