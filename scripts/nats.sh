#!/usr/bin/env bash
# Brings nats-server, on which coord-mq is tested.
#
# It comes from the Debian archive, unpacked into .cache/nats/ and run from there: nothing is
# installed. What is there already is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

bring_nats() {
    local home="$PWD/.cache/nats" apt
    apt="$home.tmp"
    if command -v nats-server >/dev/null 2>&1 || [ -x "$home/nats-server" ]; then
        return 0
    fi
    echo "    fetching nats-server from Debian bookworm (about 4 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    debian_unpack "$apt" nats-server || return 1
    mv "$apt/root/usr/sbin/nats-server" "$apt/nats-server" 2>/dev/null || mv "$apt/root/usr/bin/nats-server" "$apt/nats-server"
    rm -rf "$apt/root"
    "$apt/nats-server" --version >/dev/null 2>&1 || { rm -rf "$apt"; why="the nats-server of Debian does not run here"; return 1; }
    debian_finish "$apt" "$home"
}

if ! bring_nats; then
    printf 'There is no nats-server: %s.\nPut one on the PATH (https://nats.io/download; on Debian: sudo apt-get install nats-server).\n' "$why" >&2
    exit 1
fi
