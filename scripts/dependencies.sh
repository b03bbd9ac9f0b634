#!/usr/bin/env bash
# Who may import whom. The contracts stay free of runtimes, I/O and backends; what is built on them
# stays free of backends; nothing points upwards. Tests may import anything: only normal and build
# dependencies count here.
#
# And nobody may ask what time of day it is: clippy.toml says why, and bans it in the code; here are
# the crates that would.
#
# And who may read whose files: nobody. A crate is published with its own files alone, so nothing
# else of the workspace is mounted into it, nor read by its tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The whole list of what coord-api may name, features included.
readonly API_ALLOWED="async-trait bytes futures-core serde serde_json thiserror"
# What must not reach coord-api by any way: runtimes, I/O, transports, stores.
readonly API_DENIED='^(tokio|tokio-.*|mio|async-std|async-io|async-executor|smol|polling|futures-executor|socket2|libc|rustix|hyper|hyper-.*|h2|http|tower|tower-.*|tonic|reqwest|sled|redb|rocksdb|rusqlite|etcd-client|metrics|tracing|coord-.*)$'

# What a recipe is made of, and what a service needs of the rest of the workspace: the facade, and
# all that is below it.
readonly RECIPES="coord-api coord-home coord-core coord-recipes"
readonly LIBRARIES="$RECIPES coord-memory coord-etcd coord-fake-etcd coord-grpc coord-ui coordkit"

# Which of our own crates a crate may reach, directly or not. What is not there yet has its place
# already.
may_reach() {
    case $1 in
        coord-api | coord-fake-etcd | coord-home | coord-global-proto | coord-servers) echo "" ;;
        coord-testkit) echo "coord-api" ;;
        coord-grpc | coord-core) echo "coord-api coord-home" ;;
        coord-recipes) echo "coord-api coord-home coord-core" ;;
        coord-memory | coord-etcd | coord-ui | coord-global | coord-backend-sqlite) echo "$RECIPES" ;;
        coordkit) echo "$RECIPES coord-memory coord-etcd coord-fake-etcd coord-grpc coord-ui" ;;
        coordctl | coord-examples | coord-service) echo "$LIBRARIES" ;;
        coord-cache | coord-db | coord-mq) echo "$LIBRARIES coord-service" ;;
        im-service) echo "$LIBRARIES coord-service coord-cache coord-db coord-mq" ;;
        coord-fuzz) echo "$LIBRARIES" ;;
        globald | regiond) echo "$LIBRARIES coord-global coord-global-proto" ;;
        # Everything but the programs, and nothing may reach it.
        coord-tests) echo "$LIBRARIES coord-backend-sqlite coord-testkit coord-servers coord-service coord-cache coord-db coord-mq coord-global coord-global-proto" ;;
        *) return 1 ;;
    esac
}

# Crates that tell the time of day.
readonly WALL_CLOCK_CRATES='^(chrono|chrono-tz|time|jiff|humantime|coarsetime|quanta|hifitime|uuid|ulid)$'

# tree PACKAGE [OPTION...]: the names of what a package depends on, itself left out.
tree() {
    local package=$1
    shift
    cargo tree --locked --package "$package" --edges normal,build --target all --all-features --prefix none --format '{p}' "$@" |
        awk -v self="$package" '$1 != self && $1 != "" { print $1 }' | sort -u
}

# outside LIST ALLOWED: prints what of LIST is not in ALLOWED.
outside() {
    local name
    for name in $1; do
        case " $2 " in
            *" $name "*) ;;
            *) echo "$name" ;;
        esac
    done
}

status=0
complain() {
    printf '%s\n' "$*" >&2
    status=1
}

direct=$(tree coord-api --depth 1)
for name in $(outside "$direct" "$API_ALLOWED"); do
    complain "coord-api depends on $name; it may only name: $API_ALLOWED"
done

all=$(tree coord-api)
while IFS= read -r name; do
    [ -z "$name" ] || complain "coord-api reaches $name, which is a runtime, I/O or a backend: cargo tree --package coord-api --invert $name"
done < <(grep -E "$API_DENIED" <<<"$all" || true)

members=$(cargo tree --locked --workspace --depth 0 --prefix none --format '{p}' | awk '$1 != "" { print $1 }' | sort -u)
for member in $members; do
    if ! allowed=$(may_reach "$member"); then
        complain "$member is new: say in scripts/dependencies.sh which crates it may import"
        continue
    fi
    all=$(tree "$member")
    for name in $(outside "$(grep '^coord' <<<"$all" || true)" "$allowed"); do
        complain "$member reaches $name; of our own crates it may reach: ${allowed:-none}"
    done
done

# The examples and the code on the first page, which they compile, show what a service has that
# depends on coordkit and on nothing else of ours.
for name in $(outside "$(tree coord-examples --edges normal,build,dev --depth 1 | grep '^coord')" coordkit); do
    complain "coord-examples depends on $name; of our own crates it may name coordkit alone"
done

# foreign_names PAGE: where the code on it names a crate of ours that its reader does not have. What
# is reached by way of the library is no such name.
foreign_names() {
    awk '
    /^ *```/ { code = !code; next }
    code && (" " $0) ~ /[^:_a-z]coord_[a-z_]+::/ { print FILENAME ":" FNR }
    ' "$1"
}

for page in README.md coord/README.md coord/USING.md coord/OPERATIONS.md; do
    while IFS= read -r found; do
        [ -z "$found" ] || complain "$found: the code on this page is for readers who have coordkit alone: coord::…"
    done < <(foreign_names "$page")
done

# foreign_files CRATE: what its code mounts or includes that lies outside of its folder. The
# repository's own pages are nobody's, but only what is not published reads them.
foreign_files() {
    local crate=$1 found file line path resolved
    while IFS= read -r found; do
        [ -n "$found" ] || continue
        file=${found%%:*}
        line=${found#*:}
        path=$(sed -nE 's/.*(#\[path *= *|include(_str|_bytes)?!\()"([^"]*)".*/\3/p' <<<"${line#*:}")
        resolved=$(realpath --canonicalize-missing --relative-to=. "$(dirname "$file")/$path")
        case $resolved in
            "$crate"/*) ;;
            */*) echo "$file:${line%%:*}" ;;
            *) [[ $crate =~ ^(examples|tests)$ ]] || echo "$file:${line%%:*}" ;;
        esac
    done < <(grep -rnE '#\[path *=|include(_str|_bytes)?!\("' --include='*.rs' "$crate" || true)
    # What a test opens by a path of its own.
    grep -rnE '"(\.\./)+(coord|examples|global|services|tests)' --include='*.rs' "$crate" | grep -vE '#\[path|include' | cut -d: -f1-2 || true
}

while IFS= read -r manifest; do
    crate=${manifest%/Cargo.toml}
    while IFS= read -r found; do
        [ -z "$found" ] || complain "$found: a file of another crate; what needs several crates belongs into tests/"
    done < <(foreign_files "$crate")
    # A version would have a published crate wait for crates that are built on it.
    if ! grep -q '^publish = false' "$manifest"; then
        while IFS= read -r found; do
            [ -z "$found" ] || complain "$manifest: the development dependency on ${found%%[ .=]*} needs a path and no version: ${found%%[ .=]*} = { path = \"../…\" }"
        done < <(sed -n '/^\[dev-dependencies/,/^\[[^d]/p' "$manifest" | grep -E '^coord[a-z-]*(\.| *=.*)(workspace|version) *=' || true)
    fi
done < <(find . -mindepth 2 -name Cargo.toml -not -path './target/*' -not -path './.cache/*' | sed 's|^\./||' | sort)

for crate in coord coord-api coord-home coord-core coord-recipes coord-memory coord-etcd coord-fake-etcd coord-grpc coord-ui; do
    name=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$crate/Cargo.toml" | head -n 1)
    while IFS= read -r found; do
        [ -z "$found" ] || complain "$name depends on $found, which tells the time of day"
    done < <(tree "$name" --depth 1 | grep -E "$WALL_CLOCK_CRATES" || true)
done

if [ "$status" -eq 0 ]; then
    echo "    coord-api names ${direct//$'\n'/, }; the other crates import only what they may, and read no file of another; none asks for the time of day"
fi
exit "$status"
