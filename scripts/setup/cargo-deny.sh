#!/bin/sh
# The check of licences, duplicate versions and sources of every crate.
set -eu

version=0.18.9
if [ "$(cargo deny --version 2>/dev/null)" = "cargo-deny $version" ]; then
    echo "cargo-deny $version: present"
    exit 0
fi
# Its own release profile links the whole program at once, which takes minutes and saves nothing here.
CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --quiet --locked --force cargo-deny --version "$version"
echo "cargo-deny $version: installed"
