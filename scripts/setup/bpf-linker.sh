#!/bin/sh
# The linker of the in-kernel programs. From 0.11 on it needs an LLVM of the system; this one uses the one inside rustc.
set -eu

version=0.10.3
if [ "$(bpf-linker --version 2>/dev/null)" = "bpf-linker $version" ]; then
    echo "bpf-linker $version: present"
    exit 0
fi
cargo install --quiet --locked --force bpf-linker --version "$version"
echo "bpf-linker $version: installed"
