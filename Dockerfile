# The profiler as an image of its own, for `kubectl aiprof … --image REF`: one static binary and nothing else.
#
#   podman build -t aiprof-profiler .                 builds all of it
#   scripts/release/image.sh aiprof-profiler:dev      only the last stage, around the binary of `make profiler`

# What it is built on: Debian with build-essential and Rust 1.95 by rustup.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-trixie

FROM ${BUILD_IMAGE} AS build
WORKDIR /source
COPY . .
RUN make profiler && cp "target/profiler-image/$(uname -m)/aiprof-profiler" /aiprof-profiler

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aiprof-profiler" \
      org.opencontainers.image.description="What kubectl-aiprof runs beside a profiled process, as an ephemeral container" \
      org.opencontainers.image.source="https://github.com/kubectl-aiprof/kubectl-aiprof" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build --chmod=0555 /aiprof-profiler /aiprof-profiler
ENTRYPOINT ["/aiprof-profiler"]
