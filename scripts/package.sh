#!/usr/bin/env bash
# Makes every package that is published, as it would be uploaded, and looks at what is in it: each
# compiles by itself, from nothing but the others' packages and the registry; each says what it is,
# under which licence, and how docs.rs is to show it; none needs a crate of ours for its tests that
# another one waits for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What Cargo.toml of a package has to say.
readonly SAID=(description license readme repository keywords categories rust-version)
# What has to be in it.
readonly FILES=(README.md LICENSE-APACHE LICENSE-MIT src/lib.rs)

metadata=$(cargo metadata --locked --no-deps --format-version 1)
target=$(grep -oE '"target_directory":"[^"]*"' <<<"$metadata" | cut -d'"' -f4)
# `"publish":[]` is what is never published.
mapfile -t members < <(grep -oE '"id":"path[^"]*"|"publish":(null|\[[^]]*\])' <<<"$metadata" |
    awk -F'"' '$2 == "id" { split($4, id, "#"); name = id[2]; if (name ~ /@/) sub(/@.*/, "", name); else { name = id[1]; sub(/.*\//, "", name) } }
               $2 == "publish" && $0 !~ /\[\]/ { print name }')
[ "${#members[@]}" -gt 1 ] || { echo "No packages were found; did cargo change how it describes them?" >&2; exit 1; }

selected=()
for member in "${members[@]}"; do
    selected+=(--package "$member")
done
rm -rf "$target/package"
# What is left out of a package is left out on purpose, and cargo says so of each test.
cargo package --quiet --locked --allow-dirty --no-verify "${selected[@]}" 2>"$target/package.log" || {
    cat "$target/package.log" >&2
    exit 1
}

# What is in the packages, as a workspace of its own in which each finds the others where the
# registry would have them. Checked and not built, by the profile that all else is built by, so that
# what comes from the registry is compiled no third time.
unpacked=$target/package/unpacked
mkdir "$unpacked"
for archive in "$target"/package/*.crate; do
    tar -xzf "$archive" -C "$unpacked"
done
{
    printf '[workspace]\nresolver = "3"\nmembers = ["*-*"]\n\n[patch.crates-io]\n'
    for member in "${members[@]}"; do
        printf '%s = { path = "%s" }\n' "$member" "$(cd "$unpacked" && printf '%s' "$member"-[0-9]*)"
    done
    echo
    sed -n '/^\[profile\./,$p' Cargo.toml
} >"$unpacked/Cargo.toml"
cp Cargo.lock "$unpacked/"
CARGO_TARGET_DIR="$target" cargo check --quiet --offline --workspace --all-features --manifest-path "$unpacked/Cargo.toml" || {
    echo "A package does not compile; they lie in $unpacked." >&2
    exit 1
}

status=0
complain() {
    printf '%s\n' "$*" >&2
    status=1
}

for member in "${members[@]}"; do
    archive=$(find "$target/package" -maxdepth 1 -name "$member-[0-9]*.crate" -print -quit)
    [ -n "$archive" ] || { complain "$member: no package was made"; continue; }
    root=$(basename "$archive" .crate)
    list=$(tar -tzf "$archive")
    manifest=$(tar -xzOf "$archive" "$root/Cargo.toml")
    for file in "${FILES[@]}"; do
        grep -qxF "$root/$file" <<<"$list" || complain "$member: the package lacks $file"
    done
    for said in "${SAID[@]}"; do
        grep -qE "^$said = " <<<"$manifest" || complain "$member: Cargo.toml does not say its $said"
    done
    grep -qF '[package.metadata.docs.rs]' <<<"$manifest" || complain "$member: Cargo.toml does not say how docs.rs is to document it"
    while IFS= read -r found; do
        [ -z "$found" ] || complain "$member: $found has a version; a dependency of ours that tests alone need is a path, or neither could be published first"
    done < <(grep -E '^\[(target\..*)?dev-dependencies\.coord' <<<"$manifest" || true)
done

[ "$status" -ne 0 ] || echo "    ${members[*]}"
exit "$status"
