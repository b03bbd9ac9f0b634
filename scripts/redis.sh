#!/usr/bin/env bash
# Brings redis-server, against which the cache and the exact scope of rate limits are tested.
#
# It comes from the Debian archive, unpacked into .cache/redis/ with the libraries that it came
# with, and run from there: nothing is installed. What is there already is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

bring_redis() {
    local home="$PWD/.cache/redis" apt packages libraries
    apt="$home.tmp"
    if command -v redis-server >/dev/null 2>&1 || [ -x "$home/redis-server" ]; then
        return 0
    fi
    echo "    fetching redis-server from Debian bookworm (about 5 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    # The C library is this machine's.
    packages=$(debian_closure "$apt" redis-server |
        grep -E '^(redis-(server|tools)|lib(atomic|cap|gcrypt|gpg-error|jemalloc|lz4-|lzf|lzma|ssl|stdc\+\+|systemd|zstd)[0-9]*)$')
    [ -n "$packages" ] || { why="Debian offers no redis-server for this machine"; return 1; }
    # shellcheck disable=SC2086 # a list of package names
    debian_unpack "$apt" $packages || return 1
    libraries=$(find "$apt/root" -name 'lib*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "${libraries//$apt/$home}" "$home/root/usr/bin/redis-server" >"$apt/redis-server"
    chmod +x "$apt/redis-server"
    rm -rf "$apt/root/usr/share"
    debian_finish "$apt" "$home"
    "$home/redis-server" --version >/dev/null 2>&1 || { rm -rf "$home"; why="the redis-server of Debian does not run here"; return 1; }
}

if ! bring_redis; then
    printf 'There is no redis-server: %s.\nPut one on the PATH (on Debian: sudo apt-get install redis-server).\n' "$why" >&2
    exit 1
fi
