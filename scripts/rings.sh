#!/usr/bin/env bash
# No ring between files. Within each module, its parts (a file, or a folder with all that is in it)
# may use each other in one direction only: whoever changes a file then knows which others can be
# affected, and a file is understood after those that it uses. A module and its own parts may use
# each other. Tests do not count.
#
#   scripts/rings.sh                   every crate below
#   scripts/rings.sh FOLDER...         the crates in these folders
#   scripts/rings.sh --edges FOLDER    which file uses which
#
# What a file uses is read from its paths that begin with `crate::` or `super::`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CRATES=(coord coord-api coord-core coord-etcd coord-fake-etcd coord-grpc coord-home coord-memory coord-recipes coord-testkit coord-ui coordctl global/coord-global services/coord-cache services/coord-db services/coord-mq services/coord-service services/im-service services/servers)

edges=""
if [ "${1:-}" = --edges ]; then
    edges=yes
    shift
fi

# rings FOLDER: fails, and says where, if there is a ring in the crate in this folder.
rings() {
    local files=()
    mapfile -t files < <(find "$1/src" -name '*.rs' ! -name tests.rs | LC_ALL=C sort)
    awk -v crate="$1" -v edges="$edges" '
    # src/a/b.rs and src/a/b/mod.rs are the module crate/a/b, lib.rs is crate.
    function module_of(file) {
        sub(/^.*\/src\//, "", file)
        sub(/\.rs$/, "", file)
        sub(/\/mod$/, "", file)
        return (file == "lib" || file == "main") ? "crate" : "crate/" file
    }

    function parent_of(module) {
        sub(/\/[^\/]*$/, "", module)
        return module
    }

    # The text of a file without comments, and without its tests, which come last.
    function read_in(module, line) {
        if (marked[module] && line ~ /^mod [a-z_]+ \{$/) tests[module] = 1
        marked[module] = line ~ /^#\[cfg\(test\)\]$/
        if (tests[module]) return
        sub(/^[ \t]*\/\/.*$/, "", line)
        text[module] = text[module] line "\n"
    }

    # Where the brace that opens at the beginning of `rest` closes.
    function closing(rest,    at, depth, c) {
        depth = 0
        for (at = 1; at <= length(rest); at++) {
            c = substr(rest, at, 1)
            if (c == "{") depth++
            if (c == "}" && --depth == 0) return at
        }
        return length(rest)
    }

    # Calls found() for each path that `rest`, after the module `at`, begins with: a::b, or a::{b,
    # c::d}.
    function follow(from, at, rest,    name, inner, depth, c, i, item) {
        sub(/^[ \n]+/, "", rest)
        if (substr(rest, 1, 1) == "{") {
            inner = substr(rest, 2, closing(rest) - 2)
            depth = 0
            item = ""
            for (i = 1; i <= length(inner); i++) {
                c = substr(inner, i, 1)
                if (c == "{") depth++
                if (c == "}") depth--
                if (c == "," && depth == 0) {
                    follow(from, at, item)
                    item = ""
                } else {
                    item = item c
                }
            }
            if (item ~ /[A-Za-z_*]/) follow(from, at, item)
            return
        }
        if (!match(rest, /^[A-Za-z_][A-Za-z_0-9]*/)) {
            found(from, at)
            return
        }
        name = substr(rest, 1, RLENGTH)
        rest = substr(rest, RLENGTH + 1)
        if (name == "super" && rest ~ /^::/) {
            follow(from, parent_of(at), substr(rest, 3))
        } else if ((at "/" name) in text) {
            if (rest ~ /^::/) follow(from, at "/" name, substr(rest, 3))
            else found(from, at "/" name)
        } else if ((at, name) in passed_on) {
            found(from, passed_on[at, name])
        } else {
            found(from, at)
        }
    }

    # The file `from` uses the file `to`: an edge between the two parts of the module that holds
    # both.
    function found(from, to,    a, b, i, n, m, both) {
        if (from == to) return
        if (edges) print from " -> " to
        n = split(from, a, "/")
        m = split(to, b, "/")
        both = ""
        for (i = 1; i <= n && i <= m && a[i] == b[i]; i++) both = both (i > 1 ? "/" : "") a[i]
        # One of them is the other one, or holds it.
        if (i > n || i > m) return
        edge[both "/" a[i], both "/" b[i]] = from " uses " to
        part[both "/" a[i]] = part[both "/" b[i]] = 1
    }

    # What a module makes of its own parts known under its own name.
    function reexports(module,    rest, statement, path, names, n, list, i) {
        rest = text[module]
        while (match(rest, /pub(\([a-z ]+\))? use [^;]+;/)) {
            statement = substr(rest, RSTART, RLENGTH)
            rest = substr(rest, RSTART + RLENGTH)
            sub(/^pub(\([a-z ]+\))? use (self::)?/, "", statement)
            gsub(/[ \n;]/, "", statement)
            path = statement
            sub(/::[^:]*$/, "", path)
            if (statement ~ /\{/) {
                path = substr(statement, 1, index(statement, "{") - 3)
                names = substr(statement, index(statement, "{") + 1)
                sub(/\}.*$/, "", names)
            } else {
                names = statement
                sub(/^.*::/, "", names)
            }
            gsub(/::/, "/", path)
            if (!((module "/" path) in text)) continue
            n = split(names, list, ",")
            for (i = 1; i <= n; i++) passed_on[module, list[i]] = module "/" path
        }
    }

    # A way from a part back to itself, if there is one.
    function visit(node,    key, pair) {
        state[node] = "open"
        stack[++height] = node
        for (key in edge) {
            split(key, pair, SUBSEP)
            if (pair[1] != node) continue
            if (state[pair[2]] == "open") tell(pair[2])
            else if (state[pair[2]] == "") visit(pair[2])
        }
        state[node] = "done"
        height--
    }

    function tell(first,    i) {
        rings++
        print crate ": a ring:" > "/dev/stderr"
        for (i = height; stack[i] != first; i--) {}
        for (; i < height; i++) print "    " edge[stack[i], stack[i + 1]] > "/dev/stderr"
        print "    " edge[stack[height], first] > "/dev/stderr"
    }

    FNR == 1 { module = module_of(FILENAME); text[module] = "" }
    { read_in(module, $0) }

    END {
        for (module in text) reexports(module)
        for (module in text) {
            rest = text[module]
            while (match(rest, /(^|[^$A-Za-z_0-9:])(crate|super)::/)) {
                start = substr(rest, RSTART, RLENGTH) ~ /crate::$/ ? "crate" : parent_of(module)
                rest = substr(rest, RSTART + RLENGTH)
                follow(module, start, substr(rest, 1, 2000))
            }
        }
        for (node in part) if (state[node] == "") visit(node)
        exit rings > 0
    }
    ' "${files[@]}"
}

# Of a check that finds nothing it is not known whether it looks: here is a ring, over a name that a
# module passes on from its part.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/src/b"
echo 'mod a; mod b;' >"$scratch/src/lib.rs"
echo 'use crate::b::{B, Other};' >"$scratch/src/a.rs"
printf '%s\n' 'mod part;' 'pub use part::B;' >"$scratch/src/b/mod.rs"
printf '%s\n' 'use super::Other;' 'pub struct B(super::super::a::A);' >"$scratch/src/b/part.rs"
if edges='' rings "$scratch" 2>/dev/null; then
    echo "scripts/rings.sh does not see a ring where there is one" >&2
    exit 1
fi

status=0
[ $# -gt 0 ] || set -- "${CRATES[@]}"
for crate in "$@"; do
    rings "$crate" || status=1
done

if [ "$status" -ne 0 ]; then
    echo "Move what both need into a file that both use, or hand it over as an argument." >&2
elif [ -z "$edges" ]; then
    echo "    no ring between files: $*"
fi
exit "$status"
