#!/bin/sh
# Debian packages by the command that each brings: debian.sh COMMAND[:PACKAGE]…; only what is missing is installed.
set -eu

missing=
for want in "$@"; do
    command -v "${want%%:*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${want%%:*}" ] || missing="$missing ${want#*:}"
done
if [ -z "$missing" ]; then
    echo "debian packages: present"
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing:$missing. Install these (as root, on Debian: apt-get install$missing)" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
install() {
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y --no-install-recommends $missing >>"$log" 2>&1
}
if ! install; then
    # An old package list, or an earlier installation that was cut off.
    { apt-get update && dpkg --configure -a && apt-get -f install -y --no-install-recommends; } >>"$log" 2>&1 || true
    if ! install; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        exit 1
    fi
fi
rm -f "$log"
echo "debian packages: installed$missing"
