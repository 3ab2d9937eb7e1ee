"""What a capture costs: whole processes, compared in one run.

1. Throughput of a CPU-bound Python program with two threads: alone, recorded at 99 Hz, and under `py-spy record -r 100`,
   one after the other in rounds. Each is compared with the program alone just before and after; the figures are the mean of
   these ratios and its standard error. By the clock, and by the program's own CPU time, which does not depend on who else has
   the machine. The program is held on one CPU, since it comes and goes between two at the scheduler's whim, which makes a
   difference of 20 % from second to second where a capture makes one of 1 %.
2. CPU time and peak memory of the profiler for a short and a long capture of that program, by its own account and by the
   kernel's; trace bytes for each second; time in the kernel for each sample and switch.
3. The same for a process of 200 threads.

    AIPROF=target/release/kubectl-aiprof python3 benches/overhead.py [--quick] [--rounds N] [--json FILE]
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORKLOADS = ROOT / "e2e" / "workloads"
TOOLS = ROOT / "target" / "e2e"
AIPROF = os.environ.get("AIPROF", str(ROOT / "target/release/kubectl-aiprof"))
TICK = os.sysconf("SC_CLK_TCK")


def interpreter():
    paths = (TOOLS / "interpreters").read_text().split()
    return next((path for path in paths if path.endswith("3.12")), paths[-1])


class Program:
    """A running workload that prints lines of JSON."""

    def __init__(self, script, *arguments, cpu=None):
        self.process = subprocess.Popen([interpreter(), str(WORKLOADS / script), *map(str, arguments)],
                                        stdout=subprocess.PIPE, text=True,
                                        preexec_fn=(lambda: os.sched_setaffinity(0, {cpu})) if cpu is not None else None)
        self.pid = json.loads(self.process.stdout.readline())["pid"]
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def rate(self, start_ns, end_ns):
        """Rounds a second, and a second of its own CPU time, between two times (CLOCK_MONOTONIC), by the lines within."""
        within = [line for line in self.lines if start_ns <= line["ns"] <= end_ns]
        first, last = within[0], within[-1]
        rounds = (last["rounds"] - first["rounds"]) * 1e9
        return rounds / (last["ns"] - first["ns"]), rounds / (last["cpu_ns"] - first["cpu_ns"])

    def __enter__(self):
        time.sleep(1)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Watched:
    """A recording, and what the kernel says that its processes use."""

    def __init__(self, pid, seconds, folder):
        self.path = pathlib.Path(folder) / "capture.aiprof.tar.gz"
        self.seconds = seconds
        self.cpu_s = {}
        self.peak_kib = {}
        self.opened_ns = None
        self.process = subprocess.Popen(
            [AIPROF, "record", "--local", "--pid", str(pid), "--duration", "%ds" % seconds, "-o", str(self.path), "--progress",
             "json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.messages = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.messages.append(line)
            if '"started"' in line:
                self.opened_ns = time.monotonic_ns()

    def wait_open(self):
        while self.opened_ns is None:
            if self.process.poll() is not None:
                self.fail()
            time.sleep(0.01)

    def fail(self):
        self.reader.join(2)
        sys.exit("the recording failed with exit code %s:\n%s" % (self.process.returncode, "".join(self.messages)))

    def finish(self):
        """Waits for the end, looking at the processes four times a second meanwhile. The plugin's total is exact: it holds
        the profiler's, which the plugin waits for."""
        while True:
            done, wait_status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if done:
                break
            self._look()
            time.sleep(0.25)
        self.process.returncode = os.waitstatus_to_exitcode(wait_status)
        self.reader.join(2)
        if self.process.returncode != 0:
            self.fail()
        self.total_cpu_s = usage.ru_utime + usage.ru_stime
        with tarfile.open(self.path) as archive:
            members = {name.rsplit("/", 1)[-1]: name for name in archive.getnames()}
            self.manifest = json.load(archive.extractfile(members["manifest.json"]))
            self.trace_bytes = archive.getmember(members["trace.perfetto-trace"]).size
        self.archive_bytes = self.path.stat().st_size
        return self

    def _look(self):
        for name, pid in (("plugin", self.process.pid), *(("profiler", pid) for pid in children(self.process.pid))):
            try:
                fields = pathlib.Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
                facts = dict(line.split(":", 1) for line in pathlib.Path("/proc/%d/status" % pid).read_text().splitlines())
            except OSError:
                continue
            if "VmHWM" in facts:
                self.cpu_s[name] = (int(fields[11]) + int(fields[12])) / TICK
                self.peak_kib[name] = max(self.peak_kib.get(name, 0), int(facts["VmHWM"].split()[0]))


def children(pid):
    try:
        return [int(child) for child in pathlib.Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split()]
    except OSError:
        return []


def alone(program, seconds, _):
    start = time.monotonic_ns()
    time.sleep(seconds)
    return program.rate(start, time.monotonic_ns())


def recorded(program, seconds, folder):
    watched = Watched(program.pid, seconds, folder)
    watched.wait_open()
    watched.finish()
    return program.rate(watched.opened_ns, watched.opened_ns + seconds * 1_000_000_000)


def under_py_spy(program, seconds, folder):
    start = time.monotonic_ns()
    command = [str(TOOLS / "venv/bin/py-spy"), "record", "--rate", "100", "--duration", str(seconds), "--format", "raw",
               "--output", folder + "/py-spy.txt", "--pid", str(program.pid)]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit("py-spy failed: " + out.stderr)
    return program.rate(start + 500_000_000, start + seconds * 1_000_000_000)


def throughput(rounds, seconds, folder):
    ways = {"recorded at 99 Hz": recorded, "py-spy record -r 100": under_py_spy}
    ratios = {name: [] for name in ways}
    with Program("steady.py", cpu=0) as program:
        before = alone(program, seconds, folder)
        for _ in range(rounds):
            rates = {name: way(program, seconds, folder) for name, way in ways.items()}
            after = alone(program, seconds, folder)
            for name, rate in rates.items():
                ratios[name].append([2 * of / (first + last) for of, first, last in zip(rate, before, after)])
            before = after
    figures = {}
    for name, pairs in ratios.items():
        clock, cpu = zip(*pairs)
        figures[name] = {
            kind: (statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5)
            for kind, values in (("clock", clock), ("cpu", cpu))
        }
    return figures


def cost(script, seconds, folder):
    with Program(script) as program:
        watched = Watched(program.pid, seconds, folder).finish()
    manifest = watched.manifest
    window_s = manifest["duration_ms"] / 1000
    own = manifest["cost"]
    return {
        "seconds": window_s,
        "profiler_cpu_share_own": own["cpu_ms"] / 1000 / window_s,
        "profiler_cpu_share_kernel": watched.cpu_s.get("profiler", float("nan")) / window_s,
        "plugin_and_profiler_cpu_share": watched.total_cpu_s / window_s,
        "profiler_peak_mib_own": own["peak_rss_bytes"] / 2**20,
        "profiler_peak_mib_kernel": watched.peak_kib.get("profiler", float("nan")) / 1024,
        "plugin_peak_mib": watched.peak_kib.get("plugin", float("nan")) / 1024,
        "sample_ns": own["sample_ns"],
        "switch_ns": own["switch_ns"],
        "kernel_cpu_share": own["kernel_cpu_share"],
        "trace_bytes_per_s": watched.trace_bytes / window_s,
        "archive_bytes": watched.archive_bytes,
        "streams": manifest["streams"],
    }


def show(name, figures):
    def share(value):
        return "%.2f %%" % (100 * value)

    def ns(value):
        return "none" if value is None else "%d ns" % value

    print("\n### %s, %.0f s\n" % (name, figures["seconds"]))
    print("| what | figure |\n|---|---|")
    print("| profiler CPU, of one core (own account / kernel's) | %s / %s |" % (
        share(figures["profiler_cpu_share_own"]), share(figures["profiler_cpu_share_kernel"])))
    print("| plugin and profiler CPU, of one core, start to end | %s |" % share(figures["plugin_and_profiler_cpu_share"]))
    print("| profiler peak RSS (own account / kernel's) | %.1f / %.1f MiB |" % (
        figures["profiler_peak_mib_own"], figures["profiler_peak_mib_kernel"]))
    print("| plugin peak RSS | %.1f MiB |" % figures["plugin_peak_mib"])
    print("| in-kernel programs, of one core | %s |" % share(figures["kernel_cpu_share"]))
    print("| one sample / one switch in the kernel | %s / %s |" % (ns(figures["sample_ns"]), ns(figures["switch_ns"])))
    print("| trace, each second | %.1f KiB |" % (figures["trace_bytes_per_s"] / 1024))
    for stream, counts in sorted(figures["streams"].items()):
        print("| %s: records / lost / left out | %d / %d / %d |" % (stream, counts["records"], counts["lost"], counts["thinned"]))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=3, help="length of each part of a round")
    parser.add_argument("--short", type=int, default=10, help="seconds of the short capture")
    parser.add_argument("--long", type=int, default=120, help="seconds of the long capture")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.short, options.long = 2, 3, 5, 15
    if os.geteuid() != 0:
        sys.exit("recording a live process needs root")

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        figures["throughput"] = throughput(options.rounds, options.seconds, folder)
        print("### Throughput of two CPU-bound threads, %d rounds of %d s each, of what it is alone\n" % (options.rounds, options.seconds))
        print("| way | by the clock | by its CPU time |\n|---|---|---|")
        for name, row in figures["throughput"].items():
            cells = ["%.3f ± %.3f" % row[kind] for kind in ("clock", "cpu")]
            print("| %s | %s | %s |" % (name, *cells))
        sys.stdout.flush()
        for name, script, seconds in (
            ("two busy threads", "steady.py", options.short), ("two busy threads", "steady.py", options.long),
            ("200 threads", "threads200.py", options.short),
        ):
            figures["%s %d s" % (name, seconds)] = cost(script, seconds, folder)
            show(name, figures["%s %d s" % (name, seconds)])
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
