#!/bin/sh
# The Rust standard library's source, of exactly rustc's version: the in-kernel programs build `core` from it.
# From rustup where its servers can be reached, else from Debian's package of the same version.
set -eu

version=$(rustc --version | cut -d ' ' -f 2)
source=$(rustc --print sysroot)/lib/rustlib/src/rust
# Written beside sources from a package: rustup replaces its own on an update, but not these.
stamp=$source/.aiprof-version
if [ -f "$source/library/core/Cargo.toml" ] && { [ ! -f "$stamp" ] || [ "$(cat "$stamp")" = "$version" ]; }; then
    echo "rust-src $version: present"
    exit 0
fi
if [ ! -f "$stamp" ] && timeout 120 rustup component add rust-src >/dev/null 2>&1; then
    echo "rust-src $version: installed by rustup"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' |
    sed -n 's|^\([^ ]*/debian/\) Debian$|\1|p' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian/}
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie-backports main" >"$work/sources.list"

# Lists and cache of our own: the machine's stay as they are.
private() {
    command=$1
    shift
    "$command" -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::Cache::pkgcache= \
        -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}
private apt-get update >&2
package=$(private apt-cache madison rust-src | cut -d '|' -f 2 | tr -d ' ' | grep -m 1 "^$version" || true)
if [ -z "$package" ]; then
    echo "rust-src: neither rustup nor Debian has version $version, which this rustc needs" >&2
    echo "rust-src: run 'rustup component add rust-src' where rustup's servers can be reached" >&2
    exit 1
fi
cd "$work"
private apt-get download "rust-src=$package" >&2
dpkg-deb -x rust-src_*.deb root
rm -rf "$source/library"
mkdir -p "$source"
cp -a "root/usr/src/rustc-$version/library" "$source/library"
echo "$version" >"$stamp"
echo "rust-src $version: installed from Debian's package"
