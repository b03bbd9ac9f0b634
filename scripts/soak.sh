#!/usr/bin/env bash
# Long runs on real servers of etcd 3.5, three of them: random histories under faults, cut
# connections, holders that stand still. Three quarters of an hour for all of it; `scripts/soak.sh
# --help` says how to run a part, or less, or more. A failure shows the seed that brings it back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/etcd.sh
exec cargo run --locked --release --quiet --package coord-tests --bin soak -- "$@"
