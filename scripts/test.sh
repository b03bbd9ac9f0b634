#!/usr/bin/env bash
# The gate: what must hold before a change is merged, the same on a laptop and in CI.
#
#   scripts/test.sh          the short gate: every crate, every rule on memory and sled, and etcd
#                            3.5 with one server
#   scripts/test.sh --full   all of it, as CI checks it
#
# It reads the tree and never writes to it (formatting is checked, not done); what it builds goes to
# the target folder, what it downloads to .cache/. It stops at the first thing that does not hold
# and says what to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The examples promise to end by themselves within these times.
readonly QUICKSTART_LIMIT_SECONDS=10
readonly GRPC_LIMIT_SECONDS=30

# What is checked, in this order: which gate | which function | what it is called | what to do if it
# fails. The full gate checks the lines of the short one as well.
readonly SECTIONS=(
    "short|set_up|set-up|Something that the gate needs is missing; see above."
    "short|shell_scripts|shell scripts|Repair what shellcheck found."
    "short|format|format|Run: cargo fmt --all"
    "short|wrapping|wrapping|A line of a comment or of Markdown is too long; see scripts/wrapping.sh for what counts."
    "short|spelling|spelling|Repair it: typos --write-changes. What is right as it stands belongs into typos.toml."
    "short|dependencies|purity and direction of dependencies|A crate imports what it may not; see scripts/dependencies.sh for who may import whom and why."
    "short|rings|no ring between files|Files use each other in a ring; see scripts/rings.sh. What both need goes into a file below them."
    "short|licences|licences, bans and sources of dependencies|See deny.toml for what is allowed and why."
    "short|lints|lints|Repair the warnings; an allow needs its reason."
    "full|features|combinations of features|A crate does not compile without one of its features, or with it alone."
    "full|packages|packages|What would be published is not complete, or does not compile by itself; see scripts/package.sh."
    "full|oldest_rust|oldest Rust|The crates do not compile with the Rust that Cargo.toml states as the oldest one. Use what that one has, or raise rust-version."
    "short|tests|tests|Repair the test that failed, or the code that it accuses."
    "short|doc_tests|doc tests|Repair the example in the documentation."
    "full|kit_of_itself|the kit fails what is broken|The kit lets a broken backend pass; alone: cargo test --test saboteurs"
    "full|kit_on_harmless|random cases on harmless backends|The kit fails a backend that keeps the contract, or the code is wrong; alone: cargo test --test saboteurs -- --ignored"
    "short|etcd_alone|etcd: by script; live and with faults in the full gate|Repair the test that failed, or the code that it accuses; alone: cargo test -p coord-etcd --test fake, cargo test --test live, cargo test --test faults -- --test-threads 2"
    "short|etcd_fake|etcd: the kit on the fake one|Repair the case that failed, or the code that it accuses; alone: cargo test --test conformance_fake r12::"
    "short|etcd_single|etcd: the kit on one server|Repair the case that failed, or the code that it accuses; alone: cargo test --test conformance_single r12::"
    "full|etcd_three|etcd: the kit on three servers|Repair the case that failed, or the code that it accuses; alone: cargo test --test conformance_three r12::"
    "full|services_live|services: on real servers|Repair the test that failed, or the code that it accuses; alone: cargo test --test cache_redis"
    "full|page|the page in a browser|Repair the test that failed, or the code that it accuses; alone: cargo test --test ui_browser. COORD_UI_PICTURES names a directory for pictures of it."
    "full|sqlite_store|SQLite: the rules of stores|Repair the case that failed, or the code that it accuses; alone: cargo test --test sqlite s3::"
    "short|report|conformance report|The program that writes the matrix failed; run it with --help."
    "short|documentation|documentation|Repair the warnings of rustdoc, or the link that leads nowhere; after cargo doc: cargo test --test links -- --ignored"
    "short|quickstart|quickstart|The quickstart failed, or took more than $QUICKSTART_LIMIT_SECONDS s; run: cargo run --example quickstart"
    "short|grpc_discovery|gRPC discovery|The example failed, or took more than $GRPC_LIMIT_SECONDS s; run: cargo run --example grpc_discovery"
    "full|fuzzing|fuzzing|An input that broke a property lies where the output above says; cargo run -p coord-fuzz --bin TARGET -- FILE shows it again."
)

# With other packages selected, cargo would find other features for what they have in common, and
# build it all once more.
readonly EVERYTHING=(--workspace --all-features)

# Targets of tests, by name. Those that are named here have a section of their own, or are for
# people; all others are run by the section "tests".
readonly SABOTEURS=saboteurs
readonly ETCD_BY_SCRIPT=fake
readonly ETCD_LIVE=live
readonly ETCD_FAULTS=faults
readonly ETCD_FAKE=conformance_fake
readonly ETCD_SINGLE=conformance_single
readonly ETCD_OLD=conformance_old
readonly ETCD_THREE=conformance_three
readonly ETCD_OF_SOMEBODY=external
# Of the service layer, on Redis, PostgreSQL and NATS, and on all of them.
readonly SERVICES_LIVE=(cache_redis cache_limits cache_faults db_postgres db_faults mq_nats processes)
readonly PAGE=ui_browser
readonly SQLITE=sqlite
readonly SQLITE_REAL_TIME=sqlite_real_time
readonly APART=("$SABOTEURS" "$ETCD_BY_SCRIPT" "$ETCD_LIVE" "$ETCD_FAULTS" "$ETCD_FAKE" "$ETCD_SINGLE" "$ETCD_OLD" "$ETCD_THREE" "$ETCD_OF_SOMEBODY" "$PAGE" "$SQLITE" "$SQLITE_REAL_TIME" "${SERVICES_LIVE[@]}")

# What an old server may do in a way of its own: requests, streams and leases, and what stands on
# them most. The rest is the same code over the same answers; all of it: cargo test --test
# conformance_old.
readonly RULES_ON_OLD="s1 s2 s3 s4 s5 s6 r2 r7 r8 r16 r17 r18 r19 r20 r25 r28 r31 r32 r36 r37 r39 r45 r46"

# What several servers may do that one does not: agree, elect, lag behind one another. All of it:
# cargo test --test conformance_three.
readonly RULES_ON_THREE="s1 s2 s3 s4 s5 s6 r1 r2 r3 r7 r8 r10 r12 r16 r17 r18 r19 r20 r25 r28 r31 r32 r36 r37 r43 r45 r51 r57 r80"

# The program that writes the matrix of conformance, below target/debug/.
readonly REPORT=conformance

readonly RULES=examples/data/ratelimit.json

# How long each target is fuzzed.
readonly FUZZ_SECONDS=15

full=false
case "${1:-}" in
    "") ;;
    --full) full=true ;;
    *)
        echo "usage: scripts/test.sh [--full]" >&2
        exit 2
        ;;
esac

# All is built from nothing where all is checked, and what a second build would be quicker by fills
# the disk.
if "$full"; then
    export CARGO_INCREMENTAL=0
fi

started=$SECONDS
section=""
advice=""
# What could not be checked as it should be. Shown again at the end, so that nobody takes it for
# done.
notes=()
# The names of what only the full gate checks.
left_out=()
# How long each section took.
times=()

scratch=$(mktemp -d)
finish() {
    local status=$?
    rm -rf "$scratch"
    [ "${#times[@]}" -eq 0 ] || printf '\nSeconds:%s\n' "$(printf ' %s' "${times[@]}")"
    if [ "$status" -ne 0 ] && [ -n "$section" ]; then
        printf '\nFAILED: %s (after %d s)\n%s\n' "$section" "$((SECONDS - started))" "$advice" >&2
    fi
}
trap finish EXIT

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

# expect TEXT FILE WHAT: FILE holds TEXT, or the gate fails and shows it.
expect() {
    if ! grep -qF -- "$1" "$2"; then
        cat "$2" >&2
        fail "$3: the output above lacks \"$1\"."
    fi
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
    have c++ || apt_install g++ || fail "librdkafka and libFuzzer are C++ and there is no c++ here. Run: sudo apt-get install g++"
    have make || apt_install make || fail "librdkafka is built by make and there is none here. Run: sudo apt-get install make"
    local tools=(typos cargo-deny)
    if "$full"; then
        tools+=(cargo-hack cargo-fuzz)
    fi
    scripts/tools.sh "${tools[@]}" || fail "A tool is missing; see above."
    PATH="$PWD/.cache/tools/bin:$PATH"
    scripts/etcd.sh || fail "Building and testing coord-etcd needs etcd and protoc; see above."
    scripts/prometheus.sh || fail "The alert rules are checked with promtool; see above."
    if "$full"; then
        local server
        for server in redis postgresql nats; do
            "scripts/$server.sh" || fail "Cache, databases and messages are tested on real servers; see above."
        done
        scripts/chromium.sh || fail "The page for operators is tested in a browser; see above."
    fi
    cargo fetch --locked --quiet || fail "The dependencies could not be fetched as Cargo.lock states them. If Cargo.toml changed, run: cargo update --workspace"
    echo "    $(cargo --version), $(rustc --version)"
}

shell_scripts() {
    bash -n scripts/*.sh scripts/protoc .ci/run
    if have shellcheck; then
        shellcheck scripts/*.sh scripts/protoc .ci/run
    fi
}

format() {
    cargo fmt --all --check
}

wrapping() {
    scripts/wrapping.sh
}

spelling() {
    typos
}

dependencies() {
    scripts/dependencies.sh
}

rings() {
    scripts/rings.sh
}

# The advisories are not looked at here: they come from a database that must be fetched, and a gate
# that needs the network fails without a fault of the change. `cargo deny check advisories` looks at
# them; .github/workflows/advisories.yml does so every day.
licences() {
    cargo deny --offline --all-features --locked check --hide-inclusion-graph bans licenses sources
}

lints() {
    cargo clippy --locked --quiet "${EVERYTHING[@]}" --all-targets -- -D warnings
}

# Each crate as somebody has it who has it alone: without its features, and with each one by itself;
# coordkit with a store, without which it is nothing. All of them together are what the lints look
# at. What only brings another crate along is no feature to look at.
features() {
    # Nothing is linked, so that nobody needs librdkafka, which takes longer to build than the rest.
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    local lint=(cargo hack clippy --locked --quiet)
    lint+=(--config "target.$host.rdkafka.rustc-link-lib=['rdkafka']")
    lint+=(--each-feature --exclude-all-features --exclude-features "default,fake-etcd")
    "${lint[@]}" --package coordkit --features memory -- -D warnings
    "${lint[@]}" --workspace --ignore-private --exclude coordkit -- -D warnings
}

packages() {
    scripts/package.sh
}

oldest_rust() {
    scripts/msrv.sh "$scratch/msrv-note"
    if [ -s "$scratch/msrv-note" ]; then
        notes+=("$(cat "$scratch/msrv-note")")
    fi
}

# tests_but NAME...: options for cargo test that select every target of tests but those.
tests_but() {
    local name but=" $* "
    cargo metadata --locked --no-deps --format-version 1 | grep -oE '\{"kind":\["test"\],"crate_types":\["bin"\],"name":"[^"]*"' |
        sed 's/.*"name":"//; s/"$//' | sort -u | while IFS= read -r name; do
        case "$but" in
            *" $name "*) ;;
            *) printf -- '--test\n%s\n' "$name" ;;
        esac
    done
}

tests() {
    local selected
    mapfile -t selected < <(tests_but "${APART[@]}")
    [ "${#selected[@]}" -gt 0 ] || fail "No targets of tests were found; did cargo change how it describes them?"
    # All of it at once: some tests run the programs, and built by themselves those would have other
    # features of what they share with the tests, and all of that would be built twice.
    cargo build --locked --quiet "${EVERYTHING[@]}" --lib --bins --examples --tests
    # Some cases wait for what happens in real time, so that the cores are free for others.
    RUST_TEST_THREADS=4 cargo test --locked --quiet "${EVERYTHING[@]}" --lib --bins "${selected[@]}"
}

doc_tests() {
    cargo test --locked --quiet "${EVERYTHING[@]}" --doc
}

kit_of_itself() {
    cargo test --locked --quiet "${EVERYTHING[@]}" --test "$SABOTEURS"
}

kit_on_harmless() {
    COORD_TESTKIT_HISTORIES=1 COORD_TESTKIT_SEQUENCES=3 cargo test --locked --quiet "${EVERYTHING[@]}" --test "$SABOTEURS" -- --ignored
}

# on_servers TEST THREADS RULES...: tests that wait for servers, all that are named at the same
# time; of these rules, or all where none is named. Most of a case is waiting for leases, so more of
# them than there are cores can run at once; with many more, servers of which each wants its turn
# are late for their own clocks.
on_servers() {
    local name pid
    local names=() pids=() failed=() rules=()
    while [ $# -gt 0 ]; do
        read -ra rules <<<"$3"
        cargo test --locked --quiet "${EVERYTHING[@]}" --test "$1" -- --test-threads "$2" "${rules[@]/%/::}" >"$scratch/$1" 2>&1 &
        pids+=($!)
        names+=("$1")
        shift 3
    done
    for pid in "${pids[@]}"; do
        name=${names[0]}
        names=("${names[@]:1}")
        wait "$pid" || { failed+=("$name"); cat "$scratch/$name" >&2; }
        sed -n "s/^test result/    | $name/p" "$scratch/$name"
    done
    [ "${#failed[@]}" -eq 0 ] || fail "Failed: ${failed[*]}. $advice"
}

# They mostly wait, so all of them at the same time are as long as the longest one.
etcd_alone() {
    if "$full"; then
        on_servers "$ETCD_BY_SCRIPT" 4 "" "$ETCD_LIVE" 4 "" "$ETCD_FAULTS" 2 ""
    else
        on_servers "$ETCD_BY_SCRIPT" 4 ""
        left_out+=("etcd: what only real servers can show" "etcd: one of each fault")
    fi
}

etcd_fake() {
    on_servers "$ETCD_FAKE" 16 ""
}

etcd_single() {
    if "$full"; then
        on_servers "$ETCD_SINGLE" 12 "" "$ETCD_OLD" 6 "$RULES_ON_OLD"
    else
        on_servers "$ETCD_SINGLE" 16 ""
        left_out+=("etcd: the kit on one server of 3.4")
    fi
}

etcd_three() {
    on_servers "$ETCD_THREE" 8 "$RULES_ON_THREE"
}

services_live() {
    local name selected=()
    for name in "${SERVICES_LIVE[@]}"; do
        selected+=(--test "$name")
    done
    RUST_TEST_THREADS=2 cargo test --locked --quiet "${EVERYTHING[@]}" "${selected[@]}"
}

# Two at once: a browser takes what there is.
page() {
    cargo test --locked --quiet "${EVERYTHING[@]}" --test "$PAGE" -- --test-threads 2
}

# Every call of it goes to a thread and to a file, so that the whole kit takes a quarter of an hour:
# cargo test --test sqlite, and --test sqlite_real_time.
sqlite_store() {
    cargo test --locked --quiet "${EVERYTHING[@]}" --test "$SQLITE" -- s1:: s2:: s3:: s4:: s5:: s6::
}

# The whole kit runs among the tests; this is about the program that makes the matrix of it, and its
# verdicts.
report() {
    local target
    target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    "$target/debug/$REPORT" --backend memory,sled,sqlite,third-party --case s6:: --out "$scratch" >"$scratch/verdicts"
    expect "memory: 0 of 1 runs failed" "$scratch/verdicts" "The report of durability"
    expect '| **S6** Durability | – not run | ✔' "$scratch/CONFORMANCE.md" "The matrix"
    expect '"verdict": "not_run"' "$scratch/conformance.json" "The report as JSON"
    sed 's/^/    | /' "$scratch/verdicts"
}

# As docs.rs makes it, where it says which feature brings what. That is not in stable Rust yet, and
# docs.rs has another; so rustdoc, and it alone, is told to take it.
documentation() {
    printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n' >"$scratch/rustdoc"
    chmod +x "$scratch/rustdoc"
    local metadata target
    metadata=$(cargo metadata --locked --no-deps --format-version 1)
    target=$(grep -oE '"target_directory":"[^"]*"' <<<"$metadata" | cut -d'"' -f4)
    # A crate has links to those alone whose folders are there when it is documented; and cargo
    # empties a folder before it is written, so that no two may be at it at once.
    rm -rf "$target/doc"
    grep -oE '"kind":\["lib"\],"crate_types":\["lib"\],"name":"[^"]*"' <<<"$metadata" |
        sed 's/.*"name":"//; s/"$//' | tr - _ | while IFS= read -r name; do mkdir -p "$target/doc/$name"; done
    RUSTDOC="$scratch/rustdoc" RUSTDOCFLAGS="--cfg docsrs -D warnings" cargo doc --locked --quiet --jobs 1 "${EVERYTHING[@]}" --no-deps
    cargo test --locked --quiet "${EVERYTHING[@]}" --test links -- --ignored
}

run_quickstart() {
    timeout "$QUICKSTART_LIMIT_SECONDS" cargo run --quiet --locked --example quickstart -- "$@"
}

quickstart() {
    cargo build --quiet --locked --example quickstart

    run_quickstart | sed 's/^/    | /'

    run_quickstart --store "sled:$scratch/store" >"$scratch/first" || fail "The first run on sled failed."
    run_quickstart --store "sled:$scratch/store" >"$scratch/second" || fail "The second run on sled failed."
    expect "An empty store" "$scratch/first" "The first run on sled"
    expect "left by an earlier run" "$scratch/second" "The second run on sled"

    # One wrong word, far down in the file: the error must name the file, the line and the field.
    local line
    line=$(grep -n '"requests"' "$RULES" | tail -n 1 | cut -d: -f1)
    sed "${line}s/\"requests\": *[0-9]*/\"requests\": \"many\"/" "$RULES" >"$scratch/bad.json"
    if run_quickstart --rules "$scratch/bad.json" >"$scratch/out" 2>"$scratch/bad"; then
        fail "The quickstart took a rules file that is wrong in line $line."
    fi
    expect "$scratch/bad.json:$line" "$scratch/bad" "A bad rules file"
    expect ".requests" "$scratch/bad" "A bad rules file"
    sed 's/^/    | /' "$scratch/bad"
}

grpc_discovery() {
    cargo build --quiet --locked --example grpc_discovery
    timeout "$GRPC_LIMIT_SECONDS" cargo run --quiet --locked --example grpc_discovery >"$scratch/grpc" || { cat "$scratch/grpc" >&2; exit 1; }
    expect " 0 failed" "$scratch/grpc" "The example of the gRPC channel"
    sed 's/^/    | /' "$scratch/grpc"
}

fuzzing() {
    scripts/fuzz.sh --seconds "$FUZZ_SECONDS"
}

for line in "${SECTIONS[@]}"; do
    IFS='|' read -r gate check name help <<<"$line"
    if [ "$gate" = full ] && ! "$full"; then
        left_out+=("$name")
        continue
    fi
    section=$name
    advice=$help
    section_started=$SECONDS
    printf '\n==> %s\n' "$section"
    "$check"
    printf '    ok, %d s\n' "$((SECONDS - section_started))"
    times+=("$check=$((SECONDS - section_started))")
done
section=""

if [ "${#left_out[@]}" -gt 0 ]; then
    printf '\nLeft out, and checked by scripts/test.sh --full:\n'
    printf '    %s\n' "${left_out[@]}"
fi

if [ "${#notes[@]}" -gt 0 ]; then
    printf '\nNOT CHECKED: %s\n' "${notes[@]}" >&2
    if [ "${CI:-}" = true ]; then
        section="completeness"
        fail "In CI everything is checked, or nothing is green."
    fi
fi

printf '\nAll green in %d s%s.\n' "$((SECONDS - started))" "${notes[*]:+, but for what was not checked}"
