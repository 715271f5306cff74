#!/usr/bin/env bash
# Builds the record-only swioscope and lab-load for s390x, static. They come to lie in
# ${XDG_CACHE_HOME:-~/.cache}/swioscope/s390x/target/s390x-unknown-linux-gnu/release. Arguments go to cargo.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/swioscope/s390x
target=s390x-unknown-linux-gnu
cd "$here/../.."

export CARGO_TARGET_DIR=$cache/target
export CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER=s390x-linux-gnu-gcc CC_s390x_unknown_linux_gnu=s390x-linux-gnu-gcc
export RUSTFLAGS='-C target-feature=+crt-static'
options=(--release --target "$target")
for patch in "$here"/*-big-endian.patch; do
    crate=$(basename "$patch" -big-endian.patch)
    if ! cmp --silent "$patch" "$cache/crates/$crate/big-endian.patch"; then
        echo "build: $crate is not there or patched otherwise: run $here/prepare.sh" >&2
        exit 1
    fi
    options+=(--config "patch.crates-io.${crate%-*}.path=\"$cache/crates/$crate\"")
done

# cargo notes in Cargo.lock where the patched crates are from; that is nobody else's business.
lock=$(mktemp)
cp Cargo.lock "$lock"
trap 'cp "$lock" Cargo.lock; rm -f "$lock"' EXIT
nice cargo build "${options[@]}" --no-default-features --bin swioscope "$@"
nice cargo build "${options[@]}" --package xtask --bin lab-load "$@"
echo "$CARGO_TARGET_DIR/$target/release/swioscope"
echo "$CARGO_TARGET_DIR/$target/release/lab-load"
