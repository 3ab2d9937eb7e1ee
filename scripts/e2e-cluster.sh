#!/bin/sh
# Runs the cluster suite (e2e/cluster) with the plugin that AIPROF names: e2e-cluster.sh [ARGUMENTS OF CARGO TEST…].
#
# Without AIPROF_E2E_CLUSTER=external the cluster is a stand-in on this machine, which takes root, podman and runc, and is left out
# without them, except in CI. Tests mostly wait, so more of them run at once than there are processors: E2E_TEST_THREADS.
set -eu

cd "$(dirname "$0")/.."

leave_out() {
    echo "the cluster suite was left out: $1; AIPROF_E2E_CLUSTER=external runs it on the cluster of KUBECONFIG"
    [ "${CI:-}" != true ] || exit 1
    exit 0
}

if [ "${AIPROF_E2E_CLUSTER:-}" != external ]; then
    [ "$(id -u)" = 0 ] || leave_out "its stand-in of a cluster needs root"
    scripts/setup/debian.sh podman runc debootstrap || leave_out "its stand-in of a cluster needs podman, runc and debootstrap"
    AIPROF_E2E_IMAGE=$(scripts/e2e-image.sh)
    AIPROF_E2E_PROFILER_IMAGE=$(scripts/e2e-profiler-image.sh)
    export AIPROF_E2E_IMAGE AIPROF_E2E_PROFILER_IMAGE
fi
KUBECTL=$(scripts/e2e-kubectl.sh)
export KUBECTL
exec cargo test --locked -p aiprof-e2e "$@" -- --test-threads "${E2E_TEST_THREADS:-6}"
