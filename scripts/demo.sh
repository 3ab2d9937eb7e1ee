#!/usr/bin/env bash
# The whole way once: a small Python HTTP server under load is recorded for ten seconds, and what it did is printed.
# Needs root, as the recording does.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
aiprof=$(realpath "${AIPROF:-$root/target/release/kubectl-aiprof}")
seconds=${SECONDS_TO_RECORD:-10}
out=$root/target/demo
mkdir -p "$out"
if [ "$(id -u)" != 0 ]; then
    echo "demo: recording a live process needs root; run: sudo make demo" >&2
    exit 1
fi

pids=()
leave() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
}
trap leave EXIT

rm -f "$out/address"
python3 "$root/e2e/demo/server.py" --address-file "$out/address" &
server=$!
pids+=("$server")
for _ in $(seq 100); do
    [ -s "$out/address" ] && break
    kill -0 "$server" 2>/dev/null || { echo "demo: the server ended" >&2; exit 1; }
    sleep 0.1
done
python3 "$root/e2e/demo/load.py" "$(cat "$out/address")" >"$out/load.txt" &
load=$!
pids+=("$load")
sleep 1

echo "demo: recording the server (pid $server) for $seconds seconds"
"$aiprof" record --local --pid "$server" --duration "${seconds}s" -o "$out/server.aiprof.tar.gz"
kill "$load" && wait "$load" || true
echo
"$aiprof" report "$out/server.aiprof.tar.gz"
echo
cat "$out/load.txt"
echo "archive:  $out/server.aiprof.tar.gz"
echo "timeline: $aiprof open $out/server.aiprof.tar.gz"
