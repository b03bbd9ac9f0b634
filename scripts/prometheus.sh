#!/usr/bin/env bash
# Brings promtool, which checks the alert rules and tries them on what was scraped during faults.
#
# It comes from the Debian archive, unpacked into .cache/prometheus/ and run from there: nothing is
# installed. What is there already is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

bring_promtool() {
    local home="$PWD/.cache/prometheus" apt
    apt="$home.tmp"
    if command -v promtool >/dev/null 2>&1 || [ -x "$home/promtool" ]; then
        return 0
    fi
    echo "    fetching promtool from Debian bookworm (about 20 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    debian_unpack "$apt" prometheus || return 1
    mv "$apt/root/usr/bin/promtool" "$apt/promtool"
    rm -rf "$apt/root"
    "$apt/promtool" --version >/dev/null 2>&1 || { rm -rf "$apt"; why="the promtool of Debian does not run here"; return 1; }
    debian_finish "$apt" "$home"
}

if ! bring_promtool; then
    printf 'There is no promtool: %s.\nPut one on the PATH (it comes with Prometheus; on Debian: sudo apt-get install prometheus).\n' "$why" >&2
    exit 1
fi
