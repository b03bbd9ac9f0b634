#!/usr/bin/env bash
# Brings what building and testing coord-etcd needs and this machine lacks: two versions of etcd,
# etcdctl, protoc, strace, and libfaketime.
#
# They come from the Debian archive, unpacked into .cache/ and run from there: nothing is installed.
# What is there already is left alone, so that a second run does nothing and needs no network.
#
#   .cache/etcd-3.4/etcd   Debian 12's own version: the old and hostile one
#   .cache/etcd-3.5/etcd   the newest 3.5 that Debian's later releases carry: the one that decides
#   .cache/etcdctl-3.5/etcdctl   a Go client, whose mutex stands in the queues of our locks; the
#                          test that needs it fails without it, and nothing else does
#   .cache/protoc/protoc   found by scripts/protoc, which the builds run
#   .cache/strace/strace   slows down the disk of a server; the test that needs it fails without it,
#                          and nothing else does
#   .cache/faketime/       lets the clock of a client jump; likewise
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

# give_up WHAT ADVICE: nothing is worth more than a clear word here.
give_up() {
    printf '%s: %s.\n%s\n' "$1" "$why" "$2" >&2
    exit 1
}

# bring_etcd SERIES PACKAGE RELEASE...: the newest etcd, or etcdctl, of that series which the
# releases carry.
bring_etcd() {
    local series=$1 package=$2 program home apt version
    shift 2
    case $package in
        etcd-server) program=etcd ;;
        *) program=etcdctl ;;
    esac
    home="$PWD/.cache/$program-$series"
    apt="$home.tmp"
    if [ -x "$home/$program" ]; then
        return 0
    fi
    echo "    fetching $program $series from Debian $* (about 10 MB, once, into .cache/)"
    debian_begin "$apt" "$@" || return 1
    version=$(apt-cache "${debian_options[@]}" madison "$package" | awk -F ' *[|] *' -v series="$series." 'index($2, series) == 1 { print $2 }' |
        sort -V | tail -n 1)
    [ -n "$version" ] || { why="Debian $* carries no $program $series for this machine"; return 1; }
    debian_unpack "$apt" "$package=$version" || return 1
    mv "$apt/root/usr/bin/$program" "$apt/$program"
    rm -rf "$apt/root"
    # One of the two knows either.
    "$apt/$program" --version >/dev/null 2>&1 || "$apt/$program" version >/dev/null 2>&1 ||
        { why="the $program of Debian does not run here"; return 1; }
    debian_finish "$apt" "$home"
}

# protoc, with the definitions that belong to it. It needs the libraries that it came with, and the
# C library of this machine or, where that is older, its own.
bring_protoc() {
    local home="$PWD/.cache/protoc" apt packages libraries
    apt="$home.tmp"
    if scripts/protoc --version >/dev/null 2>&1; then
        return 0
    fi
    echo "    fetching protoc from Debian bookworm (about 3 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    packages=$(debian_closure "$apt" protobuf-compiler libprotobuf-dev | grep -E '^(protobuf-compiler|libproto.*)$')
    [ -n "$packages" ] || { why="Debian offers no protoc for this machine"; return 1; }
    # shellcheck disable=SC2086 # a list of package names
    debian_unpack "$apt" $packages || return 1
    libraries=$(find "$apt/root" -name 'libprotoc.so.*' -printf '%h' -quit)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" --proto_path="%s" "$@"\n' "${libraries/#$apt/$home}" "$home/root/usr/bin/protoc" \
        "$home/root/usr/include" >"$apt/protoc"
    chmod +x "$apt/protoc"
    rm -rf "$apt/root/usr/share"
    debian_finish "$apt" "$home"
    scripts/protoc --version >/dev/null 2>&1 || { rm -rf "$home"; why="the protoc of Debian does not run here"; return 1; }
}

# strace, with the libraries that it came with.
bring_strace() {
    local home="$PWD/.cache/strace" apt packages libraries
    apt="$home.tmp"
    if command -v strace >/dev/null 2>&1 || [ -x "$home/strace" ]; then
        return 0
    fi
    echo "    fetching strace from Debian bookworm (about 2 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    packages=$(debian_closure "$apt" strace | grep -E '^(strace|libunwind[0-9]+|liblzma[0-9]+)$')
    [ -n "$packages" ] || { why="Debian offers no strace for this machine"; return 1; }
    # shellcheck disable=SC2086 # a list of package names
    debian_unpack "$apt" $packages || return 1
    libraries=$(find "$apt/root" -name 'lib*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "${libraries//$apt/$home}" "$home/root/usr/bin/strace" >"$apt/strace"
    chmod +x "$apt/strace"
    rm -rf "$apt/root/usr/share"
    debian_finish "$apt" "$home"
    "$home/strace" --version >/dev/null 2>&1 || { rm -rf "$home"; why="the strace of Debian does not run here"; return 1; }
}

# libfaketime, for programs with threads. It needs nothing but the C library.
bring_faketime() {
    local home="$PWD/.cache/faketime" apt
    apt="$home.tmp"
    if [ -e "$home/libfaketimeMT.so.1" ]; then
        return 0
    fi
    echo "    fetching libfaketime from Debian bookworm (about 50 kB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    debian_unpack "$apt" libfaketime || return 1
    find "$apt/root" -name libfaketimeMT.so.1 -exec mv {} "$apt/" \;
    rm -rf "$apt/root"
    # A library that cannot be loaded is left out with no more than a warning, so it is the time
    # that tells.
    if [ "$(LD_PRELOAD="$apt/libfaketimeMT.so.1" FAKETIME="@2000-02-03 04:05:06" date +%Y 2>/dev/null)" != 2000 ]; then
        why="the libfaketime of Debian does not work here"
        return 1
    fi
    debian_finish "$apt" "$home"
}

bring_protoc || give_up "There is no protoc" "Install it (on Debian: sudo apt-get install protobuf-compiler libprotobuf-dev), or set PROTOC to one."
bring_etcd 3.5 etcd-server trixie forky || give_up "There is no etcd 3.5" \
    "Put an etcd 3.5 of your own at .cache/etcd-3.5/etcd (https://github.com/etcd-io/etcd/releases; 3.5.28 or newer)."
bring_etcd 3.4 etcd-server bookworm || give_up "There is no etcd 3.4" \
    "Put an etcd 3.4 of your own at .cache/etcd-3.4/etcd (https://github.com/etcd-io/etcd/releases)."
if ! bring_etcd 3.5 etcd-client trixie forky; then
    printf 'There is no etcdctl 3.5: %s. The tests beside a Go client will fail; put one of your own at .cache/etcdctl-3.5/etcdctl.\n' "$why" >&2
fi
if ! bring_strace; then
    printf 'There is no strace: %s. The test of a slow disk will fail; install it (on Debian: sudo apt-get install strace).\n' "$why" >&2
fi
if ! bring_faketime; then
    printf 'There is no libfaketime: %s. The test of a clock that jumps will fail; put a libfaketimeMT.so.1 of your own into .cache/faketime/.\n' "$why" >&2
fi

for series in 3.5 3.4; do
    printf '    %s\n' "$(".cache/etcd-$series/etcd" --version | head -n 1)"
done
printf '    %s\n' "$(scripts/protoc --version)"
