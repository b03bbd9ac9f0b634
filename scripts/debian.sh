# shellcheck shell=bash
# Sourced by scripts that need a program which Debian carries in another release than this
# machine's: the package is fetched and unpacked into .cache/ and run from there. Nothing is
# installed, the system is not touched, and no root is needed.
#
# Each function that can fail says in `why` what stood in the way.

# shellcheck disable=SC2034 # those who source this read it
why=""

# The Debian archive that this machine's own package sources name.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Identifier: Packages' 2>/dev/null |
        awk '$2 == "main" && $1 ~ /\/debian\/?$/ { print $1; exit }'
}

debian_keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        [ ! -r "$file" ] || { echo "$file"; return 0; }
    done
    return 1
}

# debian_begin DIRECTORY RELEASE...: makes a package manager's state of our own in DIRECTORY, an
# empty system that knows those releases, and fetches their package lists. Sets `debian_options`,
# for apt-get and apt-cache.
debian_begin() {
    local apt=$1 mirror key release
    shift
    { command -v apt-get && command -v dpkg-deb; } >/dev/null 2>&1 || { why="this is no Debian system"; return 1; }
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || { why="this machine's package sources name no Debian archive"; return 1; }
    key=$(debian_keyring) || { why="the keyring of the Debian archive is missing"; return 1; }

    rm -rf "$apt"
    mkdir -p "$apt"/{lists,cache,debs,root}
    : >"$apt/status"
    for release in "$@"; do
        echo "deb [signed-by=$key] $mirror $release main"
    done >"$apt/sources.list"
    debian_options=(
        -q -o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
        -o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=-" -o "APT::Sandbox::User=$(id -un)"
        -o "Acquire::Languages=none" -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false" -o "Acquire::Retries=2"
    )
    apt-get "${debian_options[@]}" update >"$apt/log" 2>&1 || { why="the package lists of Debian $* could not be fetched"; return 1; }
}

# debian_closure DIRECTORY PACKAGE...: the names of the packages and of all that they need, on an
# empty system.
debian_closure() {
    local apt=$1
    shift
    apt-get "${debian_options[@]}" install --yes --no-install-recommends --print-uris "$@" 2>>"$apt/log" |
        sed -n "s/^'[^']*' \([^_ ]*\)_.*/\1/p"
}

# debian_unpack DIRECTORY PACKAGE[=VERSION]...: fetches the packages, verified as apt verifies them,
# and unpacks them into DIRECTORY/root.
debian_unpack() {
    local apt=$1 package
    shift
    (cd "$apt/debs" && apt-get "${debian_options[@]}" download "$@" >>"$apt/log" 2>&1) || { why="the packages $* could not be fetched"; return 1; }
    for package in "$apt"/debs/*.deb; do
        dpkg-deb -x "$package" "$apt/root" || { why="the package $(basename "$package") could not be unpacked"; return 1; }
    done
}

# debian_finish DIRECTORY TARGET: leaves out what only the fetching needed, and puts the rest in
# place at once.
debian_finish() {
    rm -rf "$1"/{lists,cache,debs} "$2"
    mv "$1" "$2"
}
