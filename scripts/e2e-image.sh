#!/bin/sh
# The image of the pods of the cluster suite: a small Debian with python3 and a shell, made here and kept by podman.
# e2e-image.sh [NAME]; prints the name. The release and the mirror can be set by E2E_SUITE and E2E_MIRROR.
set -eu

suite=${E2E_SUITE:-trixie}
mirror=${E2E_MIRROR:-http://deb.debian.org/debian}
name=${1:-localhost/aiprof-e2e:$suite}

podman() {
    command podman --runtime runc --cgroup-manager cgroupfs "$@"
}

if podman image exists "$name"; then
    echo "$name"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
if ! debootstrap --variant=minbase --include=python3 "$suite" "$work/root" "$mirror" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
fi
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/doc "$work"/root/usr/share/man \
    "$work"/root/usr/share/locale
tar -C "$work/root" -c . | podman import --quiet --change 'CMD=["/bin/sh"]' - "$name" >/dev/null
echo "$name"
