#!/bin/sh
# The profiler's own image for the cluster suite, made by scripts/release/image.sh around the profiler of `make profiler`; a name for
# each profiler, so that podman keeps what it has: e2e-profiler-image.sh [PROFILER]; prints the name.
set -eu

cd "$(dirname "$0")/.."
profiler=${1:-target/profiler-image/$(uname -m)/aiprof-profiler}
if [ ! -x "$profiler" ]; then
    echo "there is no profiler at $profiler; make profiler builds it" >&2
    exit 1
fi
name=localhost/aiprof-profiler:$(sha256sum "$profiler" | cut -c -12)
podman --runtime runc --cgroup-manager cgroupfs image exists "$name" || scripts/release/image.sh "$name" "$profiler" >&2
echo "$name"
