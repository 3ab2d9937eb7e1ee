#!/bin/sh
# Builds the last stage of the Dockerfile around a profiler that is built already, with nothing pulled: image.sh NAME [PROFILER].
# The stage is the Dockerfile's own text; only the stage that it copies from is replaced by a folder with the binary.
set -eu

cd "$(dirname "$0")/../.."
name=${1:?image.sh NAME [PROFILER]}
profiler=${2:-target/profiler-image/$(uname -m)/aiprof-profiler}
if [ ! -x "$profiler" ]; then
    echo "there is no profiler at $profiler; make profiler builds it" >&2
    exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$profiler" "$work/aiprof-profiler"
# From the last FROM on, copying from the build's own folder.
awk '/^FROM /{text=""} {text=text $0 "\n"} END{printf "%s", text}' Dockerfile | sed 's/--from=build //' >"$work/Dockerfile"
podman --runtime runc --cgroup-manager cgroupfs build --quiet --pull=never --isolation=chroot --file "$work/Dockerfile" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --tag "$name" "$work" >/dev/null

# What must hold of it: the binary alone, not writable, about as large as the image.
files=$(podman save --format docker-archive "$name" | tar -xO --wildcards '*.tar' 2>/dev/null | tar -tv | grep -v '/$' || true)
case $files in
    -r-xr-xr-x*' aiprof-profiler') ;;
    *) echo "the image must hold the profiler alone, not writable, but holds: $files" >&2 && exit 1 ;;
esac
bytes=$(podman image inspect --format '{{.Size}}' "$name")
limit=$(($(stat -c %s "$profiler") + 100000))
if [ "$bytes" -gt "$limit" ]; then
    echo "the image has $bytes bytes, more than the $limit expected" >&2
    exit 1
fi
echo "$name: $bytes bytes"
