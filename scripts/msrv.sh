#!/usr/bin/env bash
# Compiles the crates with the oldest Rust that Cargo.toml states (rust-version), for the statement is worth nothing
# otherwise.
#
# The compiler comes from rustup where it is installed there; else from the Debian release that carries it, unpacked into
# .cache/ and run from there: nothing is installed and the system is not touched. Where neither can be had, two weaker
# checks stand in and the reason is written to the file that the first argument names, so that the gate can repeat it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

note_file=${1:-/dev/null}
minimum=$(sed -n 's/^rust-version *= *"\([0-9.]*\)"$/\1/p' Cargo.toml)
[ -n "$minimum" ] || { echo "Cargo.toml states no rust-version" >&2; exit 1; }

readonly HOME_OF_RUST="$PWD/.cache/rust-$minimum"

# The Debian release whose rustc is the minimum.
debian_release() {
    case $minimum in
        1.85) echo trixie ;;
        *) return 1 ;;
    esac
}

# Fetches and unpacks the compiler. Sets why and fails if that is not possible.
unpack_from_debian() {
    local release packages apt="$HOME_OF_RUST.tmp"
    release=$(debian_release) || { why="no Debian release is known to carry Rust $minimum"; return 1; }
    echo "    fetching Rust $minimum from Debian $release (about 130 MB, once, into .cache/)"
    debian_begin "$apt" "$release" || return 1

    # The compiler and every library that it needs. Its C compiler is the machine's own.
    packages=$(debian_closure "$apt" rustc cargo | grep -E '^(rustc|cargo|lib.*)$' | grep -vE '^lib(c6|c|crypt|gcc-[0-9]+)-dev')
    [ -n "$packages" ] || { why="Debian $release does not offer rustc and cargo for this machine"; return 1; }
    # shellcheck disable=SC2086 # a list of package names
    debian_unpack "$apt" $packages || return 1

    # They need the C library that they came with, so they run through its loader.
    local loader libraries tool
    mkdir "$apt/bin"
    loader=$(find "$apt/root" -type f -name 'ld-linux*.so.*' -print -quit)
    libraries=$(find "$apt/root" -name 'librustc_driver-*.so' -printf '%h' -quit)
    for tool in rustc cargo; do
        printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "${loader/#$apt/$HOME_OF_RUST}" "${libraries/#$apt/$HOME_OF_RUST}" \
            "$HOME_OF_RUST/root/usr/bin/$tool" >"$apt/bin/$tool"
        chmod +x "$apt/bin/$tool"
    done
    rm -rf "$apt/root/usr/share"
    debian_finish "$apt" "$HOME_OF_RUST"
    for tool in rustc cargo; do
        "$HOME_OF_RUST/bin/$tool" --version >/dev/null 2>&1 || { rm -rf "$HOME_OF_RUST"; why="the $tool of Debian $release does not run here"; return 1; }
    done
}

# check_with COMMAND...: compiles everything that users get with that cargo.
check_with() {
    echo "    compiling with $("$@" --version)"
    RUSTC_WRAPPER="" CARGO_TARGET_DIR=.cache/target-msrv "$@" check --locked --offline --quiet --workspace --all-features
}

# What no compiler proves: that the dependencies, those of other platforms included, do not ask for more than we do.
# The lint clippy::incompatible_msrv, which the gate runs, does the same for the standard library.
check_statements() {
    local metadata manifest="" field value newest status=0
    metadata=$(cargo metadata --locked --format-version 1 --all-features)
    while IFS=: read -r field value; do
        value=${value//\"/}
        if [ "$field" = '"manifest_path"' ]; then
            manifest=$value
        else
            newest=$(printf '%s\n%s\n' "$minimum" "$value" | sort -V | tail -n 1)
            if [ "$newest" != "$minimum" ] && [ "$value" != "$minimum.0" ]; then
                echo "$(basename "$(dirname "$manifest")") asks for Rust $value" >&2
                status=1
            fi
        fi
    done < <(grep -oE '"(manifest_path|rust_version)":"[^"]*"' <<<"$metadata")
    return "$status"
}

check_statements

if installed=$(rustup toolchain list 2>/dev/null | grep -oE "^$minimum(\.[0-9]+)?-[^ ]+" | head -n 1) && [ -n "$installed" ]; then
    check_with rustup run "$installed" cargo
elif [ -x "$HOME_OF_RUST/bin/cargo" ] || unpack_from_debian; then
    RUSTC="$HOME_OF_RUST/bin/rustc" check_with "$HOME_OF_RUST/bin/cargo"
else
    note="Nothing was compiled with Rust $minimum: $why. Only what the dependencies state and the lint incompatible_msrv were checked. Help: rustup toolchain install $minimum"
    echo "    $note" >&2
    echo "$note" >"$note_file"
fi
