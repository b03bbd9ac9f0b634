#!/usr/bin/env bash
# The gate: everything that must hold before a change is merged, the same on a laptop and in CI.
#
# It reads the tree and never writes to it (formatting is checked, not done); what it builds goes to the target
# folder, what it downloads to .cache/. It stops at the first thing that does not hold and says what to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The quickstart promises to end by itself within this time.
readonly QUICKSTART_LIMIT_SECONDS=10
# So does the example of the gRPC channel.
readonly GRPC_LIMIT_SECONDS=30
readonly RULES=examples/data/ratelimit.json

started=$SECONDS
section_started=$SECONDS
section=""
advice=""
# What could not be checked as it should be. Shown again at the end, so that nobody takes it for done.
notes=()

scratch=$(mktemp -d)
finish() {
    local status=$?
    rm -rf "$scratch"
    if [ "$status" -ne 0 ] && [ -n "$section" ]; then
        printf '\nFAILED: %s (after %d s)\n%s\n' "$section" "$((SECONDS - started))" "$advice" >&2
    fi
}
trap finish EXIT

# begin NAME ADVICE: starts a section; ADVICE is what to do if it fails.
begin() {
    end
    section=$1
    advice=$2
    section_started=$SECONDS
    printf '\n==> %s\n' "$section"
}

end() {
    if [ -n "$section" ]; then
        printf '    ok, %d s\n' "$((SECONDS - section_started))"
    fi
    section=""
}

fail() {
    advice="$*"
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# apt_install PACKAGE...: from Debian, where we may.
apt_install() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo -n)
        { have sudo && sudo -n true 2>/dev/null; } || return 1
    fi
    have apt-get || return 1
    echo "    installing $* with apt-get"
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    "${as_root[@]}" apt-get update -qq && "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

set_up() {
    have cargo || fail "There is no cargo here. Install Rust (https://rustup.rs) and run this again."
    have cc || apt_install gcc libc6-dev || fail "Rust needs a linker and there is no cc here. Run: sudo apt-get install gcc libc6-dev"
    local part
    for part in rustfmt clippy; do
        if ! cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1; then
            { have rustup && rustup component add "$part"; } || fail "cargo cannot run $part. Install it: rustup component add $part"
        fi
    done
    if ! have shellcheck && ! apt_install shellcheck; then
        notes+=("The shell scripts were not checked: shellcheck is missing and could not be installed (sudo apt-get install shellcheck).")
    fi
    scripts/etcd.sh || fail "Building and testing coord-etcd needs etcd and protoc; see above."
    scripts/prometheus.sh || fail "The alert rules are checked with promtool; see above."
    cargo fetch --locked --quiet || fail "The dependencies could not be fetched as Cargo.lock states them. If Cargo.toml changed, run: cargo update --workspace"
    echo "    $(cargo --version), $(rustc --version)"
}

quickstart() {
    timeout "$QUICKSTART_LIMIT_SECONDS" cargo run --quiet --locked --example quickstart -- "$@"
}

# expect TEXT FILE WHAT: FILE holds TEXT, or the gate fails and shows it.
expect() {
    if ! grep -qF -- "$1" "$2"; then
        cat "$2" >&2
        fail "$3: the output above lacks \"$1\"."
    fi
}

run_quickstart() {
    cargo build --quiet --locked --example quickstart

    quickstart | sed 's/^/    | /'

    quickstart --store "sled:$scratch/store" >"$scratch/first" || fail "The first run on sled failed."
    quickstart --store "sled:$scratch/store" >"$scratch/second" || fail "The second run on sled failed."
    expect "An empty store" "$scratch/first" "The first run on sled"
    expect "left by an earlier run" "$scratch/second" "The second run on sled"

    # One wrong word, far down in the file: the error must name the file, the line and the field.
    local line
    line=$(grep -n '"requests"' "$RULES" | tail -n 1 | cut -d: -f1)
    sed "${line}s/\"requests\": *[0-9]*/\"requests\": \"many\"/" "$RULES" >"$scratch/bad.json"
    if quickstart --rules "$scratch/bad.json" >"$scratch/out" 2>"$scratch/bad"; then
        fail "The quickstart took a rules file that is wrong in line $line."
    fi
    expect "$scratch/bad.json:$line" "$scratch/bad" "A bad rules file"
    expect ".requests" "$scratch/bad" "A bad rules file"
    sed 's/^/    | /' "$scratch/bad"
}

# The whole kit runs among the tests; this is about the program that makes the matrix of it, and its verdicts.
write_report() {
    local target
    target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    "$target/debug/conformance" --backend memory,sled,third-party --case s6:: --out "$scratch" >"$scratch/verdicts"
    expect "memory: 0 of 1 runs failed" "$scratch/verdicts" "The report of durability"
    expect '| **S6** Durability | – not run | ✔' "$scratch/CONFORMANCE.md" "The matrix"
    expect '"verdict": "not_run"' "$scratch/conformance.json" "The report as JSON"
    sed 's/^/    | /' "$scratch/verdicts"
}

# etcd_tests TEST THREADS...: tests on real servers of etcd, all that are named at the same time. Most of a case is waiting for leases, so more of them than
# there are cores can run at once; with many more, servers of which each wants its turn are late for their own clocks.
etcd_tests() {
    local name pid
    local names=() pids=() failed=()
    while [ $# -gt 0 ]; do
        cargo test --locked --quiet "${everything[@]}" --test "$1" -- --test-threads "$2" >"$scratch/$1" 2>&1 &
        pids+=($!)
        names+=("$1")
        shift 2
    done
    for pid in "${pids[@]}"; do
        name=${names[0]}
        names=("${names[@]:1}")
        wait "$pid" || { failed+=("$name"); cat "$scratch/$name" >&2; }
        sed -n "s/^test result/    | $name/p" "$scratch/$name"
    done
    [ "${#failed[@]}" -eq 0 ]
}

begin "set-up" "Something that the gate needs is missing; see above."
set_up

begin "shell scripts" "Repair what shellcheck found."
bash -n scripts/*.sh scripts/protoc .ci/run
if have shellcheck; then
    shellcheck scripts/*.sh scripts/protoc .ci/run
fi

begin "format" "Run: cargo fmt --all"
cargo fmt --all --check

begin "purity and direction of dependencies" "A crate imports what it may not; see scripts/dependencies.sh for who may import whom and why."
scripts/dependencies.sh

begin "lints" "Repair the warnings; an allow needs its reason."
cargo clippy --locked --quiet --workspace --all-targets --all-features -- -D warnings

# With other packages selected, cargo would find other features for what they have in common, and build it all once more.
readonly everything=(--workspace --all-features)
# The tests of coord-tests that need no server, and those of the servers themselves.
readonly without_etcd=(--test coverage --test histories --test memory --test report --test saboteurs --test servers --test sled --test third_party)

begin "tests" "Repair the test that failed, or the code that it accuses."
cargo build --locked --quiet "${everything[@]}" --bins --examples
cargo test --locked --quiet "${everything[@]}" --exclude coord-etcd --exclude coord-tests --lib --bins --tests
cargo test --locked --quiet "${everything[@]}" --lib --bins "${without_etcd[@]}"

begin "random cases on harmless backends" "The kit fails a backend that keeps the contract, or the code is wrong; alone: cargo test -p coord-tests --test saboteurs -- --ignored"
COORD_TESTKIT_HISTORIES=1 COORD_TESTKIT_SEQUENCES=3 cargo test --locked --quiet "${everything[@]}" --test saboteurs -- --ignored

begin "doc tests" "Repair the example in the documentation."
cargo test --locked --quiet "${everything[@]}" --doc

begin "etcd by script" "Repair the test that failed, or the code that it accuses."
cargo test --locked --quiet "${everything[@]}" --lib --test fake --test secrets -- --test-threads 4

begin "etcd: what only real servers can show" "Repair the test that failed, or the code that it accuses; alone: cargo test -p coord-tests --test live"
etcd_tests live 4

begin "etcd: one of each fault" "Repair the test that failed, or the code that it accuses; alone: cargo test -p coord-tests --test faults -- --test-threads 2"
etcd_tests faults 2

begin "etcd: the kit" "Repair the case that failed, or the code that it accuses; alone: cargo test -p coord-tests --test conformance_three r12::"
etcd_tests conformance_single 6 conformance_old 6
etcd_tests conformance_three 8

begin "conformance report" "The program that writes the matrix failed; run: cargo run -p coord-tests --bin conformance -- --help"
write_report

begin "documentation" "Repair the warnings of rustdoc."
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --workspace --all-features --no-deps

begin "oldest Rust" "The crates do not compile with the Rust that Cargo.toml states as the oldest one. Use what that one has, or raise rust-version."
scripts/msrv.sh "$scratch/msrv-note"
if [ -s "$scratch/msrv-note" ]; then
    notes+=("$(cat "$scratch/msrv-note")")
fi

begin "quickstart" "The quickstart failed, or took more than $QUICKSTART_LIMIT_SECONDS s; run: cargo run --example quickstart"
run_quickstart

begin "gRPC discovery" "The example failed, or took more than $GRPC_LIMIT_SECONDS s; run: cargo run --example grpc_discovery"
cargo build --quiet --locked --example grpc_discovery
timeout "$GRPC_LIMIT_SECONDS" cargo run --quiet --locked --example grpc_discovery >"$scratch/grpc" || { cat "$scratch/grpc" >&2; exit 1; }
expect " 0 failed" "$scratch/grpc" "The example of the gRPC channel"
sed 's/^/    | /' "$scratch/grpc"
end

if [ "${#notes[@]}" -gt 0 ]; then
    printf '\nNOT CHECKED: %s\n' "${notes[@]}" >&2
    if [ "${CI:-}" = true ]; then
        section="completeness"
        fail "In CI everything is checked, or nothing is green."
    fi
fi

printf '\nAll green in %d s%s.\n' "$((SECONDS - started))" "${notes[*]:+, but for what was not checked}"
