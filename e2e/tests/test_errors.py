"""What goes wrong is said in a sentence, with what to do, and by the exit code."""
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile

import pytest
from conftest import AIPROF, Archive, Workload, interpreters, run, version_of


def error(result, code, *words):
    assert result.returncode == code, "exit code %d\n%s%s" % (result.returncode, result.stdout, result.stderr)
    text = result.stderr
    assert "panicked" not in text and "RUST_BACKTRACE" not in text, text
    for word in words:
        assert any(w.lower() in text.lower() for w in word.split("|")), "no %r in: %s" % (word, text)
    return text


def test_no_such_process(tmp_path):
    path = tmp_path / "x.aiprof.tar.gz"
    text = error(run("record", "--local", "--pid", 4194000, "-d", "1s", "-o", path), 1, "4194000", "no process|no such process")
    assert len(text.strip().splitlines()) <= 4
    assert not path.exists()


def test_nothing_fits_the_pattern(tmp_path):
    error(run("record", "--local", "--process", "no-such-program-at-all", "-d", "1s", "-o", tmp_path / "x.aiprof.tar.gz"), 1,
          "no-such-program-at-all")
    assert os.listdir(tmp_path) == []


def test_not_python(tmp_path):
    """CPU is recorded all the same; what is missing is said, and the exit code is 3."""
    path = tmp_path / "x.aiprof.tar.gz"
    burner = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        error(run("record", "--local", "--pid", burner.pid, "-d", "2s", "-o", path), 3, "python")
        archive = Archive(path, None)
        assert archive.manifest["dimensions"]["python"]["status"] == "refused"
        assert archive.manifest["dimensions"]["cpu"]["status"] == "complete"
        assert archive.trace.samples_of(pid=burner.pid)
        assert run("record", "--local", "--pid", burner.pid, "-d", "1s", "--collect", "cpu", "-o", path).returncode == 0
    finally:
        burner.kill()
        burner.wait()


def test_without_root(newest, workload, open_folder):
    program = workload(newest, "steady.py")
    shutil.copy(AIPROF, open_folder / "kubectl-aiprof")
    (open_folder / "kubectl-aiprof").chmod(0o755)
    out = open_folder / "out"
    out.mkdir()
    os.chown(out, 65534, 65534)
    result = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
         str(open_folder / "kubectl-aiprof"), "record", "--local", "--pid", str(program.pid), "-d", "1s",
         "-o", str(out / "x.aiprof.tar.gz")],
        capture_output=True, text=True, timeout=30, cwd=out)
    error(result, 1, "root|CAP_", "sudo|root")
    assert os.listdir(out) == []


def test_root_without_capabilities(newest, workload, tmp_path):
    program = workload(newest, "steady.py")
    result = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--",
         AIPROF, "record", "--local", "--pid", str(program.pid), "-d", "1s", "-o", str(tmp_path / "x.aiprof.tar.gz")],
        capture_output=True, text=True, timeout=30)
    error(result, 1, "CAP_SYS_ADMIN|CAP_BPF")


def test_full_disk(newest, workload, tmp_path):
    program = workload(newest, "threads200.py")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=True)
    try:
        path = disk / "x.aiprof.tar.gz"
        error(run("record", "--local", "--pid", program.pid, "-d", "6s", "-o", path, env={**os.environ, "TMPDIR": str(disk)}), 1,
              "no space|full")
        if path.exists():
            assert run("report", path).returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_such_folder(newest, workload, tmp_path):
    program = workload(newest, "steady.py")
    error(run("record", "--local", "--pid", program.pid, "-d", "1s", "-o", tmp_path / "none" / "x.aiprof.tar.gz"), 1, "none")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    from conftest import Workload, interpreters
    path = tmp_path_factory.mktemp("good") / "good.aiprof.tar.gz"
    with Workload(interpreters()[-1], "steady.py") as program:
        result = run("record", "--local", "--pid", program.pid, "-d", "1s", "-o", path)
    assert result.returncode == 0, result.stderr
    return path


def test_port_taken(good):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 9001))
        taken.listen()
        error(run("open", good, "--no-browser", timeout=20), 1, "9001", "in use")


@pytest.mark.parametrize("command", ["report", "open"])
def test_torn_and_foreign_archives(good, tmp_path, command):
    whole = good.read_bytes()
    middle = len(whole) // 2
    arguments = ["--no-browser"] if command == "open" else []

    def archive_of(files):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    bad = {
        "missing": None, "empty": b"", "noise": os.urandom(4096), "text": b"hello\n" * 100, "half": whole[:middle],
        "short": whole[:-20], "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1:],
        "foreign": archive_of({"README": b"hello"}), "no-trace": archive_of({"manifest.json": b"{}"}),
        "odd-manifest": archive_of({"manifest.json": b"[1", "trace.perfetto-trace": b""}),
        "new-schema": archive_of({"manifest.json": json.dumps({"schema": 999}).encode(), "trace.perfetto-trace": b""}),
        "climber": archive_of({"../../etc/x": b"", "manifest.json": b"{}"}),
    }
    for name, data in bad.items():
        path = tmp_path / (name + ".aiprof.tar.gz")
        if data is not None:
            path.write_bytes(data)
        result = run(command, path, *arguments, timeout=20)
        error(result, 1, path.name)
    error(run(command, tmp_path, *arguments, timeout=20), 1)


@pytest.mark.no_root
@pytest.mark.parametrize("arguments", [
    [], ["record"], ["record", "--local"], ["record", "--local", "--pid", "0"], ["record", "--local", "--pid", "x"],
    ["record", "--local", "--pid", "1", "-d", "soon"], ["record", "--local", "--pid", "1", "-d", "-3s"],
    ["record", "--local", "--pid", "1", "--frequency", "0"], ["record", "--local", "--pid", "1", "--collect", "nothing"],
    ["record", "--local", "pod/x", "--pid", "1"], ["report"], ["open"], ["report", "x", "-o", "yaml"], ["frobnicate"],
    ["record", "--local", "--pid", "1", "--no-such-flag"],
], ids=lambda a: " ".join(a) or "none")
def test_usage(arguments):
    error(run(*arguments), 2)


@pytest.mark.no_root
def test_help_version_and_completion():
    assert run("--version").stdout.startswith("kubectl")
    for command in ([], ["record"], ["open"], ["report"]):
        out = run(*command, "--help")
        assert out.returncode == 0 and "Examples:" in out.stdout, out.stdout
    for shell in ("bash", "zsh", "fish"):
        out = run("completion", shell)
        assert out.returncode == 0 and len(out.stdout) > 500


def test_kernel_without_type_data(newest, workload, tmp_path):
    """An empty folder lies over /sys/kernel/btf, as on a kernel that was built without it."""
    program = workload(newest, "steady.py")
    path = tmp_path / "x.aiprof.tar.gz"
    script = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh",
         AIPROF, "record", "--local", "--pid", str(program.pid), "-d", "1s", "-o", str(path)],
        capture_output=True, text=True, timeout=30)
    error(result, 1, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF")
    assert not path.exists()


# `_Py_DebugOffsets` starts with a cookie, the version and whether the build is free-threaded, eight bytes each.
# The bytes of the cookie alone also occur in code.
DESCRIPTION_OF_3_13 = b"xdebugpy" + (0x030D00F0).to_bytes(8, "little")


@pytest.mark.parametrize(("word", "value", "reason"), [
    (2, 1, "free-threaded"),
    (1, 0x030F00F0, "3.15"),
    (1, 0x7F0000F0, "version"),
], ids=["free-threaded", "newer", "nonsense"])
def test_python_that_cannot_be_read(tmp_path, word, value, reason):
    """A 3.13 whose own description is altered in its file stands for builds that cannot be had: it is refused by name, and
    the CPU dimension goes on."""
    python = next(path for path in interpreters() if version_of(path) == "3.13")
    library = next((python.parent.parent / "lib").glob("libpython3.13.so.*"))
    data = bytearray(library.read_bytes())
    start = data.index(DESCRIPTION_OF_3_13) + 8 * word
    data[start:start + 8] = value.to_bytes(8, "little")
    (tmp_path / library.name).write_bytes(data)
    path = tmp_path / "x.aiprof.tar.gz"
    with Workload(python, "steady.py", prefix=("env", "LD_LIBRARY_PATH=%s" % tmp_path)) as program:
        error(run("record", "--local", "--pid", program.pid, "-d", "2s", "-o", path), 3, "python", reason)
        archive = Archive(path, None)
    (process,) = archive.manifest["processes"]
    assert process["dimensions"]["python"]["status"] == "refused"
    assert reason in process["dimensions"]["python"]["reason"]
    assert archive.manifest["dimensions"]["cpu"]["status"] == "complete"
    samples = archive.trace.samples_of(pid=program.pid)
    assert len(samples) > 20 and not any(frame.kind == "python" for sample in samples for frame in sample.stack)
