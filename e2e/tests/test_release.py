"""What a release is made of: the archives and their krew manifest, the profiler's image, the workflows that make them."""
import hashlib
import json
import os
import re
import subprocess
import tarfile
import uuid

import pytest
import yaml
from conftest import AIPROF, ROOT

VERSION = "v" + re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
PROFILER = ROOT / "target/profiler-image/x86_64/aiprof-profiler"
PLATFORMS = ["linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64", "windows-amd64"]
# https://semver.org, with the "v" that krew wants in front.
SEMVER = r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
LIMITS = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=10000:10000"]


def run(words, **options):
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)


def script(name, *arguments, dist=None):
    environment = {**os.environ, **({"DIST": str(dist)} if dist else {})}
    return run([str(ROOT / "scripts/release" / name), *map(str, arguments)], env=environment)


def krew_problems(name, manifest):
    """What krew's own validation (internal/index/validation and cmd/validate-krew-manifest of sigs.k8s.io/krew) would
    not take in the manifest of the plugin of this name, and what it would warn of."""
    spec = manifest["spec"]
    lines = [line for text in ("description", "caveats") for line in spec[text].splitlines()]
    checks = {
        "apiVersion": manifest["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2",
        "kind": manifest["kind"] == "Plugin",
        "name": manifest["metadata"]["name"] == name and re.fullmatch(r"[\w-]+", name),
        "fields": set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        and set(spec) <= {"version", "homepage", "shortDescription", "description", "caveats", "platforms"},
        "version": re.fullmatch(SEMVER, spec["version"]),
        "shortDescription": 0 < len(spec["shortDescription"]) <= 70 and "\n" not in spec["shortDescription"],
        "lines of 80": all(len(line) <= 80 for line in lines),
        "platforms": spec["platforms"],
    }
    selected = []
    for platform in spec["platforms"]:
        labels = platform["selector"]["matchLabels"]
        selected.append((labels["os"], labels["arch"]))
        where = "%s/%s: " % selected[-1]
        checks[where + "fields"] = set(platform) <= {"selector", "uri", "sha256", "bin", "files"}
        checks[where + "labels"] = set(labels) == {"os", "arch"}
        checks[where + "uri"] = platform["uri"].startswith("https://")
        checks[where + "sha256"] = re.fullmatch("[a-f0-9]{64}", platform["sha256"])
        checks[where + "bin"] = platform["bin"]
        checks[where + "files"] = "files" not in platform or (
            platform["files"] and all(file["from"] and file["to"] for file in platform["files"]))
    checks["one platform each"] = len(selected) == len(set(selected))
    return [check for check, holds in checks.items() if not holds]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """All archives. What is packed for other platforms is this one's plugin: packing does not look into it."""
    folder = tmp_path_factory.mktemp("dist")
    for platform in PLATFORMS:
        done = script("package.sh", VERSION, platform, AIPROF, dist=folder)
        assert done.returncode == 0, done.stderr
    done = script("krew-manifest.sh", VERSION, dist=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.no_root
def test_the_krew_manifest_is_valid_and_its_archives_hold_what_it_names(dist):
    manifest = yaml.safe_load((dist / "aiprof.yaml").read_text())
    assert krew_problems("aiprof", manifest) == []
    assert manifest["spec"]["version"] == VERSION
    platforms = manifest["spec"]["platforms"]
    assert ["%(os)s-%(arch)s" % each["selector"]["matchLabels"] for each in platforms] == PLATFORMS
    for platform in platforms:
        archive = dist / platform["uri"].rsplit("/", 1)[1]
        assert "/%s/" % VERSION in platform["uri"]
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == platform["sha256"]
        with tarfile.open(archive) as tar:
            modes = {member.name: member.mode for member in tar}
        assert modes == {"LICENSE": 0o644, platform["bin"]: 0o755}


@pytest.mark.no_root
def test_the_packed_plugin_is_the_one_that_was_built(dist, tmp_path):
    archive = dist / ("kubectl-aiprof-%s-linux-amd64.tar.gz" % VERSION)
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True)
    done = run([str(tmp_path / "kubectl-aiprof"), "--version"])
    assert (done.returncode, done.stdout) == (0, "kubectl-aiprof %s\n" % VERSION[1:])


@pytest.mark.no_root
def test_packing_again_gives_the_same_bytes(dist, tmp_path):
    done = script("package.sh", VERSION, "linux-amd64", AIPROF, dist=tmp_path)
    assert done.returncode == 0, done.stderr
    name = "kubectl-aiprof-%s-linux-amd64.tar.gz" % VERSION
    assert (tmp_path / name).read_bytes() == (dist / name).read_bytes()


@pytest.mark.no_root
def test_no_manifest_without_all_archives(tmp_path):
    assert script("package.sh", VERSION, "linux-amd64", AIPROF, dist=tmp_path).returncode == 0
    done = script("krew-manifest.sh", VERSION, dist=tmp_path)
    assert done.returncode == 1
    assert "linux-arm64.tar.gz is not in" in done.stderr
    assert not (tmp_path / "aiprof.yaml").exists()


@pytest.mark.no_root
def test_another_version_or_platform_is_not_packed(tmp_path):
    assert "not v9.9.9" in script("package.sh", "v9.9.9", dist=tmp_path).stderr
    assert "no releases for plan9-amd64" in script("package.sh", VERSION, "plan9-amd64", AIPROF, dist=tmp_path).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.no_root
@pytest.mark.parametrize("workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_are_valid(workflow):
    done = run(["node", str(ROOT / "e2e/actions/lint.mjs"), str(workflow)])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.no_root
def test_the_release_builds_every_platform_of_the_manifest():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    built = [each["platform"] for each in workflow["jobs"]["plugin"]["strategy"]["matrix"]["include"]]
    assert built == PLATFORMS


def podman(*arguments):
    return run([*PODMAN, *map(str, arguments)])


@pytest.fixture(scope="module")
def image():
    """The last stage of the Dockerfile around the profiler that is inside the plugin."""
    name = "localhost/aiprof-profiler-%s:test" % uuid.uuid4().hex
    done = script("image.sh", name, PROFILER)
    assert done.returncode == 0, done.stderr
    yield name
    podman("rmi", "--force", name)


def start(image, *arguments, options=()):
    return podman("run", "--rm", "--network=none", "--read-only", "--read-only-tmpfs=false", *LIMITS, *options, image,
                  *arguments)


def test_the_image_is_the_profiler_and_little_else(image):
    inspected = json.loads(podman("image", "inspect", image).stdout)[0]
    assert inspected["Size"] <= PROFILER.stat().st_size + 100_000
    labels = inspected["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION[1:]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])
    assert inspected["Config"]["Entrypoint"] == ["/aiprof-profiler"]
    assert len(inspected["RootFS"]["Layers"]) == 1


def test_the_image_runs_with_a_root_that_cannot_be_written(image):
    done = start(image, "--version")
    assert (done.returncode, done.stdout) == (0, "aiprof-profiler %s\n" % VERSION[1:])


def test_the_image_has_no_shell(image):
    done = start(image, "-c", "exit 0", options=["--entrypoint", "/bin/sh"])
    assert done.returncode == 127, done.stderr
    assert "no such file" in done.stderr.lower()


def test_the_image_serves_until_its_lease_ends(image):
    """As the plugin starts it, but for a lease of one second."""
    socket = "/tmp/.aiprof/socket"
    capabilities = ["SYS_ADMIN", "SYS_PTRACE", "SYSLOG", "DAC_READ_SEARCH", "DAC_OVERRIDE"]
    options = ["--cap-drop=all", *["--cap-add=" + each for each in capabilities], "--tmpfs=/tmp"]
    done = start(image, "serve", "--socket", socket, "--lease", "1", options=options)
    assert done.returncode == 0, done.stderr
    refused = start(image, "serve", "--socket", socket, "--lease", "1", options=options[:-1])
    assert refused.returncode == 1
    assert "/tmp/.aiprof" in refused.stderr
