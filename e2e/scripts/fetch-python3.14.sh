#!/bin/sh
# Fetches Debian's CPython 3.14 (suite forky, a static executable) with the newer libc that it needs, and makes it
# runnable without installing anything: packages are extracted into OUTDIR/root and started by their own dynamic linker.
#
#   fetch-python3.14.sh OUTDIR     then run OUTDIR/python3.14
#
# The last line printed is the path to run. In such a process /proc/PID/exe is the dynamic linker, and python3.14 is
# just a mapped file.
set -eu

out=${1:?usage: fetch-python3.14.sh OUTDIR}
suite=${SUITE:-forky}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=$out/python3.14
if [ -x "$python" ] && "$python" -c 'import sys; assert sys.version_info[:2] == (3, 14)' 2>/dev/null; then
    echo "$python"
    exit 0
fi

# The machine's own mirror: the first one of its apt sources that is a Debian archive.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -n \
    -e 's|^URIs: *\([^ ]*/debian\)/* *$|\1|p' -e 's|^deb \(\[[^]]*\] \)*\([^ ]*/debian\)/* .*$|\2|p' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}

state=$out/apt
rm -rf "$state" "$out/root"
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$out/root"
: >"$state/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"

# Lists, cache and package state of our own: the machine's are neither read nor changed.
private_apt() {
    apt-get -q -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state/cache" -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
        -o Acquire::Languages=none "$@" >&2
}
private_apt update
private_apt -y --download-only install python3.14 libpython3.14-stdlib

for package in "$state"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$out/root"
done
rm -rf "$state"

case $(uname -m) in
x86_64) linker=ld-linux-x86-64.so.2 multiarch=x86_64-linux-gnu ;;
aarch64) linker=ld-linux-aarch64.so.1 multiarch=aarch64-linux-gnu ;;
*) echo "no recipe for $(uname -m)" >&2; exit 1 ;;
esac
cat >"$python" <<WRAPPER
#!/bin/sh
# CPython finds its standard library from its own path, which the linker hides from it.
root=$out/root
export PYTHONHOME="\$root/usr"
exec "\$root/usr/lib/$multiarch/$linker" --library-path "\$root/usr/lib/$multiarch" "\$root/usr/bin/python3.14" "\$@"
WRAPPER
chmod +x "$python"
"$python" -c 'import sys, asyncio, threading, json; assert sys.version_info[:2] == (3, 14)'
echo "$python"
