#!/bin/sh
# Fills the version and the checksums of SHA256SUMS, in $DIST or target/dist, into krew-manifest.yaml: krew-manifest.sh vX.Y.Z.
# Writes aiprof.yaml beside them; each platform of the manifest must have been packed.
set -eu

cd "$(dirname "$0")/../.."
version=${1:?krew-manifest.sh vX.Y.Z}
dist=${DIST:-target/dist}
sums=$dist/SHA256SUMS
output=$dist/aiprof.yaml
zeros=$(printf '%064d' 0)

awk -v version="$version" -v zeros="$zeros" -v sums="$sums" '
    BEGIN { while ((getline line < sums) > 0) { split(line, part, " "); sum[part[2]] = part[1] } }
    /^#/ { next }
    { gsub(/v0\.0\.0/, version) }
    / uri: / { archive = $NF; sub(/.*\//, "", archive) }
    index($0, zeros) {
        if (!(archive in sum)) { print archive " is not in " sums > "/dev/stderr"; failed = 1; exit 1 }
        sub(zeros, sum[archive])
    }
    { print }
    END { exit failed }
' krew-manifest.yaml >"$output.new"
if grep -q -e "$zeros" -e 'v0\.0\.0' "$output.new"; then
    echo "something in $output.new is not filled in" >&2
    exit 1
fi
mv "$output.new" "$output"
echo "$output"
