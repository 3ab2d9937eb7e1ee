#!/bin/sh
# Packs a plugin for one platform: package.sh vX.Y.Z [OS-ARCH [BINARY]]; without them, what `make build` built here. OS and ARCH are
# named as krew does: linux, darwin or windows, amd64 or arm64. The same input gives the same bytes.
# Writes kubectl-aiprof-vX.Y.Z-OS-ARCH.tar.gz and its line in SHA256SUMS, to $DIST or target/dist.
set -eu

cd "$(dirname "$0")/../.."
version=${1:?package.sh vX.Y.Z [OS-ARCH [BINARY]]}
case $(uname -m) in
    aarch64) here=linux-arm64 ;;
    *) here=linux-amd64 ;;
esac
platform=${2:-$here}
plugin=${3:-target/release/kubectl-aiprof}
dist=${DIST:-target/dist}
own=v$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if [ "$version" != "$own" ]; then
    echo "the workspace is $own, not $version" >&2
    exit 1
fi
case $platform in
    linux-amd64 | linux-arm64 | darwin-amd64 | darwin-arm64) program=kubectl-aiprof ;;
    windows-amd64) program=kubectl-aiprof.exe ;;
    *) echo "no releases for $platform" >&2 && exit 1 ;;
esac

mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -m 0755 "$plugin" "$work/$program"
install -m 0644 LICENSE "$work/LICENSE"
archive=kubectl-aiprof-$version-$platform.tar.gz
when=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar -C "$work" --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner -c LICENSE "$program" | gzip -n -9 >"$dist/$archive"

cd "$dist"
touch SHA256SUMS
grep -v " $archive\$" SHA256SUMS >"$work/sums" || true
sha256sum "$archive" >>"$work/sums"
sort -k 2 "$work/sums" >SHA256SUMS
echo "$dist/$archive"
