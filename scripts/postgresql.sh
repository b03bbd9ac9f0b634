#!/usr/bin/env bash
# Brings the PostgreSQL server that the tests of coord-db run against.
#
# It comes from the Debian archive, with the libraries that it needs, unpacked into
# .cache/postgresql/ and run from there: nothing is installed. What is there already is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

bring_postgresql() {
    local home="$PWD/.cache/postgresql" apt packages programs
    apt="$home.tmp"
    programs=root/usr/lib/postgresql/15/bin
    if { command -v postgres && command -v initdb; } >/dev/null 2>&1 || [ -x "$home/$programs/postgres" ]; then
        return 0
    fi
    echo "    fetching PostgreSQL from Debian bookworm (about 40 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    # The server and its libraries, but for the C library, which is the machine's own, and for what
    # it can do without: its compiler of queries, and Perl, which only the package's scripts need.
    packages=$(debian_closure "$apt" postgresql-15 | grep -E '^(postgresql-15|lib.*)$' | grep -vE '^lib(c6|gcc-s1|crypt1|llvm.*|z3.*|perl.*|gdbm.*|.*-perl)$')
    [ -n "$packages" ] || { why="Debian bookworm does not offer postgresql-15 for this machine"; return 1; }
    # shellcheck disable=SC2086 # a list of package names
    debian_unpack "$apt" $packages || return 1
    rm -rf "$apt/root"/usr/share/{doc,man,locale,lintian,bug}
    LD_LIBRARY_PATH=$(echo "$apt"/root/usr/lib/*-linux-gnu) "$apt/$programs/postgres" --version >/dev/null 2>&1 ||
        { rm -rf "$apt"; why="the postgres of Debian does not run here"; return 1; }
    debian_finish "$apt" "$home"
}

if ! bring_postgresql; then
    printf 'There is no PostgreSQL: %s.\nPut postgres and initdb on the PATH (on Debian: sudo apt-get install postgresql-15, in /usr/lib/postgresql/15/bin).\n' "$why" >&2
    exit 1
fi
