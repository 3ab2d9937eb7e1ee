#!/bin/sh
# Packs what `make build` built for this machine's platform: package.sh vX.Y.Z. The same input gives the same bytes.
# Writes target/dist/kubectl-aiprof-vX.Y.Z-linux-ARCH.tar.gz and its line in target/dist/SHA256SUMS.
set -eu

cd "$(dirname "$0")/../.."
version=${1:?package.sh vX.Y.Z}
plugin=${PLUGIN:-target/release/kubectl-aiprof}
own=v$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if [ "$version" != "$own" ]; then
    echo "the workspace is $own, not $version" >&2
    exit 1
fi
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) echo "no releases for $(uname -m)" >&2 && exit 1 ;;
esac

mkdir -p target/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -m 0755 "$plugin" "$work/kubectl-aiprof"
install -m 0644 LICENSE "$work/LICENSE"
archive=kubectl-aiprof-$version-linux-$arch.tar.gz
when=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar -C "$work" --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner -c LICENSE kubectl-aiprof | gzip -n -9 >"target/dist/$archive"

cd target/dist
touch SHA256SUMS
grep -v " $archive\$" SHA256SUMS >"$work/sums" || true
sha256sum "$archive" >>"$work/sums"
sort -k 2 "$work/sums" >SHA256SUMS
echo "target/dist/$archive"
