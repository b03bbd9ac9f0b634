#!/usr/bin/env bash
# Looks for inputs that break a property of fuzz/, with libFuzzer: scripts/fuzz.sh [--seconds N |
# --runs N] [TARGET...]
#
# It begins with the seeds of the tree, which it never writes to. What it finds on the way stays in
# target/fuzz/corpus for the next run, and an input that breaks a property in target/fuzz/artifacts.
#
# cargo-fuzz asks for nightly Rust because of the sanitizers. There is no unsafe code here for them
# to look into, and what libFuzzer itself needs is stable.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    echo "usage: scripts/fuzz.sh [--seconds N | --runs N] [TARGET...]" >&2
    exit 2
}

limit=-max_total_time=60
targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) limit="-max_total_time=${2:?$(usage)}" && shift ;;
        --runs) limit="-runs=${2:?$(usage)}" && shift ;;
        -*) usage ;;
        *) targets+=("$1") ;;
    esac
    shift
done
[ "${#targets[@]}" -gt 0 ] || mapfile -t targets < <(cd fuzz/seeds && printf '%s\n' *)

scripts/tools.sh cargo-fuzz
PATH="$PWD/.cache/tools/bin:$PATH"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo fuzz build --fuzz-dir fuzz --sanitizer none --target "$host" --target-dir target/fuzz >target/fuzz.log 2>&1 || {
    cat target/fuzz.log >&2
    exit 1
}

# fuzz TARGET: its last lines say how many inputs it tried.
fuzz() {
    mkdir -p "target/fuzz/corpus/$1" target/fuzz/artifacts
    "target/fuzz/$host/release/$1" "$limit" -timeout=20 -print_final_stats=1 -artifact_prefix="target/fuzz/artifacts/$1-" \
        "target/fuzz/corpus/$1" "fuzz/seeds/$1" >"target/fuzz/$1.log" 2>&1
}

# One on each core.
cores=$(nproc)
status=0
while [ "${#targets[@]}" -gt 0 ]; do
    some=("${targets[@]:0:$cores}")
    targets=("${targets[@]:$cores}")
    pids=()
    for target in "${some[@]}"; do
        fuzz "$target" &
        pids+=($!)
    done
    for target in "${some[@]}"; do
        if wait "${pids[0]}"; then
            printf '    | %s: %s inputs\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$target.log")"
        else
            tail -n 40 "target/fuzz/$target.log" >&2
            status=1
        fi
        pids=("${pids[@]:1}")
    done
done
exit "$status"
