#!/usr/bin/env bash
# Compiles the crates with the oldest Rust that Cargo.toml states (rust-version), for the statement
# is worth nothing otherwise.
#
# The compiler comes from rustup where it is installed there; else from the Debian release that
# carries it, unpacked into .cache/ and run from there: nothing is installed and the system is not
# touched. Where neither can be had, two weaker checks stand in and the reason is written to the
# file that the first argument names, so that the gate can repeat it.
#
# A crate whose own Cargo.toml states a newer one, since what it stands on asks for that, is left
# out of that: it is compiled with the Rust that it states where rustup has it, else with the gate's
# own. What all crates and their dependencies state is compared in any case, for each crate with
# what it states itself.
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

# check_with PACKAGES COMMAND...: compiles what users get of those packages with that cargo. Nothing
# is linked, so that nobody needs librdkafka, which takes longer to build than the rest.
check_with() {
    local packages host
    read -ra packages <<<"$1"
    shift
    echo "    compiling with $("$@" --version)"
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTC_WRAPPER="" CARGO_TARGET_DIR=.cache/target-msrv "$@" check --locked --offline --quiet "${packages[@]}" --all-features \
        --config "target.$host.rdkafka.rustc-link-lib=['rdkafka']"
}

# rustup_with VERSION: the toolchain of rustup that is of that version.
rustup_with() {
    rustup toolchain list 2>/dev/null | grep -oE "^${1//./\\.}(\.[0-9]+)?-[^ ]+" | head -n 1
}

# What each package of the workspace and of its dependencies states, as `stated[name-version]`; and
# of our own those that state more than the workspace does, as `newer[name]`.
declare -A stated newer
read_statements() {
    local metadata manifest="" field value name members
    metadata=$(cargo metadata --locked --format-version 1 --all-features)
    while IFS=: read -r field value; do
        value=${value//\"/}
        if [ "$field" = '"manifest_path"' ]; then
            manifest=$value
        else
            stated[$(basename "$(dirname "$manifest")")]=$value
        fi
    done < <(grep -oE '"(manifest_path|rust_version)":"[^"]*"' <<<"$metadata")
    members=$(cargo tree --locked --workspace --depth 0 --prefix none --format '{p}' | awk '$1 != "" { print $1, $NF }' | sort -u)
    while read -r name manifest; do
        manifest=${manifest//[()]/}
        value=${stated[$(basename "$manifest")]:-$minimum}
        if is_newer "$value" "$minimum"; then
            newer[$name]=$value
        fi
    done <<<"$members"
}

# is_newer A B: whether the version A is newer than B; 1.85.0 is 1.85.
is_newer() {
    local a=${1%.0} b=${2%.0}
    [ "$a" != "$b" ] && [ "$(printf '%s\n%s\n' "$a" "$b" | sort -V | tail -n 1)" = "$a" ]
}

# asks_for_more LIMIT OPTION...: says which packages of the trees that the options select ask for
# more than the limit, and fails if any does.
asks_for_more() {
    local limit=$1 name version key status=0
    shift
    while read -r name version; do
        # A package of our own lies in a folder without a version.
        for key in "$name-${version#v}" "$name"; do
            if [ -n "${stated[$key]:-}" ] && is_newer "${stated[$key]}" "$limit"; then
                echo "$key asks for Rust ${stated[$key]}, and what needs it promises $limit" >&2
                status=1
            fi
        done
    done < <(cargo tree --locked --edges normal,build,dev --target all --all-features --prefix none --format '{p}' "$@" | awk '$1 != "" { print $1, $2 }' | sort -u)
    return "$status"
}

# What no compiler proves: that the dependencies, those of other platforms included, do not ask for
# more than we do. The lint clippy::incompatible_msrv, which the gate runs, does the same for the
# standard library.
check_statements() {
    local name status=0
    asks_for_more "$minimum" --workspace "${exclude_newer[@]}" || status=1
    for name in "${!newer[@]}"; do
        asks_for_more "${newer[$name]}" --package "$name" || status=1
    done
    return "$status"
}

read_statements
exclude_newer=()
for name in "${!newer[@]}"; do
    exclude_newer+=(--exclude "$name")
done
check_statements

for name in "${!newer[@]}"; do
    own=${newer[$name]}
    toolchain=$(rustup_with "$own" || true)
    if [ -n "$toolchain" ]; then
        check_with "--package $name" rustup run "$toolchain" cargo
    else
        echo "    $name asks for Rust $own; the gate compiles it with $(rustc --version) alone"
    fi
done

rest="--workspace ${exclude_newer[*]}"
if installed=$(rustup_with "$minimum") && [ -n "$installed" ]; then
    check_with "$rest" rustup run "$installed" cargo
elif [ -x "$HOME_OF_RUST/bin/cargo" ] || unpack_from_debian; then
    RUSTC="$HOME_OF_RUST/bin/rustc" check_with "$rest" "$HOME_OF_RUST/bin/cargo"
else
    note="Nothing was compiled with Rust $minimum: $why. Only what the dependencies state and the lint incompatible_msrv were checked. Help: rustup toolchain install $minimum"
    echo "    $note" >&2
    echo "$note" >"$note_file"
fi
