#!/usr/bin/env bash
# Brings Chromium and ChromeDriver, with which pages are tried as a person sees them.
#
# They come from the Debian archive, with the libraries and the fonts that they need, unpacked into
# .cache/chromium/ and run from there: nothing is installed. What is there already is left alone.
# Where both are on the PATH, those are used. Either way, .cache/chromium/bin/chromium and
# .cache/chromium/bin/chromedriver run them, from any directory: with a home of their own, which is
# no one's, and with no host to be reached but this machine. ChromeDriver wants to be told of the
# former, as the "binary" among its "goog:chromeOptions".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

# wrap DIRECTORY NAME PROGRAM LIBRARIES ARGUMENT...: writes DIRECTORY/bin/NAME, which runs PROGRAM.
# In PROGRAM and LIBRARIES, $here is DIRECTORY, wherever that is moved.
wrap() {
    local directory=$1 name=$2 program=$3 libraries=$4
    shift 4
    mkdir -p "$directory"/{bin,home}
    {
        cat <<'EOF'
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
unset XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME
export HOME="$here/home"
EOF
        if [ -n "$libraries" ]; then
            # shellcheck disable=SC2016 # the variable of the wrapper
            printf 'export LD_LIBRARY_PATH="%s"\nexport FONTCONFIG_FILE="$here/fonts.conf"\n' "$libraries"
        fi
        printf 'exec "%s"' "$program"
        [ $# -eq 0 ] || printf " '%s'" "$@"
        printf ' "$@"\n'
    } >"$directory/bin/$name"
    chmod +x "$directory/bin/$name"
}

# wrap_both DIRECTORY CHROMIUM CHROMEDRIVER LIBRARIES
wrap_both() {
    wrap "$1" chromium "$2" "$4" --no-first-run --disable-background-networking --disable-component-update \
        '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1, EXCLUDE ::1'
    wrap "$1" chromedriver "$3" "$4"
}

# write_fonts DIRECTORY: has the fonts used that were unpacked there and no others, so that a page
# looks the same on every machine: Liberation, and DejaVu for the characters that it lacks.
write_fonts() {
    cat >"$1/fonts.conf" <<'EOF'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">root/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias binding="same"><family>sans-serif</family><accept><family>Liberation Sans</family><family>DejaVu Sans</family></accept></alias>
  <alias binding="same"><family>system-ui</family><accept><family>Liberation Sans</family><family>DejaVu Sans</family></accept></alias>
  <alias binding="same"><family>Arial</family><accept><family>Liberation Sans</family><family>DejaVu Sans</family></accept></alias>
  <alias binding="same"><family>Helvetica</family><accept><family>Liberation Sans</family><family>DejaVu Sans</family></accept></alias>
  <alias binding="same"><family>serif</family><accept><family>Liberation Serif</family><family>DejaVu Serif</family></accept></alias>
  <alias binding="same"><family>Times New Roman</family><accept><family>Liberation Serif</family><family>DejaVu Serif</family></accept></alias>
  <alias binding="same"><family>Times</family><accept><family>Liberation Serif</family><family>DejaVu Serif</family></accept></alias>
  <alias binding="same"><family>monospace</family><accept><family>Liberation Mono</family><family>DejaVu Sans Mono</family></accept></alias>
  <alias binding="same"><family>Courier New</family><accept><family>Liberation Mono</family><family>DejaVu Sans Mono</family></accept></alias>
  <alias binding="same"><family>Courier</family><accept><family>Liberation Mono</family><family>DejaVu Sans Mono</family></accept></alias>
  <match><edit name="family" mode="append_last"><string>Liberation Sans</string></edit></match>
</fontconfig>
EOF
}

# versions DIRECTORY: whether both run, and which they are.
versions() {
    local browser driver
    browser=$("$1/bin/chromium" --version 2>/dev/null) || return 1
    driver=$("$1/bin/chromedriver" --version 2>/dev/null) || return 1
    echo "${browser%% }, ${driver%% (*}"
}

# shows DIRECTORY: whether its Chromium shows a page.
shows() {
    versions "$1" >/dev/null &&
        timeout 120 "$1/bin/chromium" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --dump-dom 'data:text/html,<p>shown' 2>>"$1/log" |
        grep '<p>shown' >/dev/null || return 1
    # What was remembered names the directory that this was in.
    rm -rf "${1:?}/home"
    mkdir "$1/home"
}

bring_chromium() {
    local home="$PWD/.cache/chromium" apt packages libraries
    apt="$home.tmp"
    if versions "$home" >/dev/null; then
        return 0
    fi
    if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then
        rm -rf "$apt"
        wrap_both "$apt" "$(command -v chromium)" "$(command -v chromedriver)" ""
        shows "$apt" || { why="the chromium on the PATH shows no page, see .cache/chromium.tmp/log"; return 1; }
        debian_finish "$apt" "$home"
        return 0
    fi
    echo "    fetching Chromium and ChromeDriver from Debian bookworm (about 150 MB, once, into .cache/)"
    debian_begin "$apt" bookworm || return 1
    # The programs and their libraries, but for the C library, which is the machine's own, and for
    # what only windows and graphics cards need, which is loaded where there are any.
    packages=$(debian_closure "$apt" chromium chromium-driver fonts-liberation fonts-dejavu-core |
        grep -E '^(chromium.*|fonts-(liberation|dejavu).*|lib.*|zlib1g)$' |
        grep -vE '^lib(c6|gtk-.*|gdk-pixbuf.*|gl1.*|glx.*|llvm.*|z3.*|icu.*|xml2|systemd-shared|perl.*|.*-perl)$')
    [ -n "$packages" ] || { why="Debian bookworm does not offer Chromium for this machine"; return 1; }
    # shellcheck disable=SC2086 # a list of package names
    debian_unpack "$apt" $packages || return 1
    find "$apt/root/usr/share" -mindepth 1 -maxdepth 1 ! -name fonts -exec rm -rf {} +
    # Chromium's own libraries are found by where it lies.
    # shellcheck disable=SC2016 # the variable of the wrapper
    libraries=$(find "$apt/root" -name 'lib*.so*' ! -path '*/chromium/*' -printf '$here/root/%P\n' | sed 's|/[^/]*$||' | sort -u | paste -sd:)
    write_fonts "$apt"
    # shellcheck disable=SC2016 # the variable of the wrapper
    wrap_both "$apt" '$here/root/usr/lib/chromium/chromium' '$here/root/usr/bin/chromedriver' "$libraries"
    shows "$apt" || { why="the Chromium of Debian shows no page here, see .cache/chromium.tmp/log"; return 1; }
    debian_finish "$apt" "$home"
}

if ! bring_chromium; then
    printf 'There is no Chromium: %s.\nPut chromium and chromedriver on the PATH (on Debian: sudo apt-get install chromium chromium-driver).\n' "$why" >&2
    exit 1
fi
echo "    $(versions .cache/chromium)"
