#!/usr/bin/env bash
# Comments and Markdown are wrapped at 100 columns, and code in them at 110, as rustfmt does with
# the code itself: then a change of them can be read side by side.
#
#   scripts/wrapping.sh            every file that git tracks, or would
#   scripts/wrapping.sh FILE...    these files
#
# What cannot be wrapped may be longer: a row of a table, a single long word.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The program of the kit writes the first, a test what coordctl shows, and the generator of gRPC's
# code the others.
readonly GENERATED='^CONFORMANCE\.md$|^coordctl/TRANSCRIPTS\.md$|^coord-fake-etcd/src/proto/generated/'

# too_long FILE...: prints each line that is too long, and fails if there is any.
too_long() {
    LC_ALL=C awk '
    # Whether the line is prose, or code in it; then `text` is what of it counts.
    function is_prose(line) {
        text = line
        if (FILENAME ~ /\.md$/) return 1
        return sub(FILENAME ~ /\.rs$/ ? "^[ \t]*//[/!]?" : "^[ \t]*#", "", text)
    }

    FNR == 1 { fenced = 0 }
    {
        if (!is_prose($0)) {
            # A block of code ends with the comment that it stands in.
            fenced = 0
            next
        }
        if (text ~ /^[ >]*```/) fenced = !fenced
        limit = fenced ? 110 : 100
        # Only the first byte of each letter counts.
        columns = $0
        gsub(/[\200-\277]/, "", columns)
        if (text ~ /^[ >]*\|/) next
        sub(/^[ \t]*(([-*]|[0-9]+\.)[ \t]+)?/, "", text)
        if (length(columns) > limit && text ~ /[^ \t][ \t]+[^ \t]/) {
            print FILENAME ":" FNR ": " length(columns) " columns, and " limit " is the limit"
            found = 1
        }
    }
    END { exit found }
    ' "$@" >&2
}

# Of a check that finds nothing it is not known whether it looks: here is what it must find, and
# what it must not.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
word=$(printf 'x%.0s' {1..60})
printf '    // %s %s\n' "$word" "$word" >"$scratch/long.rs"
printf '%s\n' '# Title' "$word $word" >"$scratch/long.md"
printf '%s\n' "| $word | $word |" '```' "let x = ${word:0:40} + ${word:0:55};" '```' "$word$word" >"$scratch/fine.md"
printf 'let x = "%s %s";\n' "$word" "$word" >"$scratch/fine.rs"
for name in long.rs long.md; do
    if too_long "$scratch/$name" 2>/dev/null; then
        echo "scripts/wrapping.sh does not see a line that is too long: $name" >&2
        exit 1
    fi
done
too_long "$scratch/fine.md" "$scratch/fine.rs"

if [ $# -gt 0 ]; then
    files=("$@")
else
    mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.rs' '*.md' '*.sh' '*.toml' '*.yml' scripts/protoc .ci/run | grep -vE "$GENERATED")
fi
too_long "${files[@]}" || {
    echo "Wrap these lines." >&2
    exit 1
}
echo "    comments and Markdown are wrapped: ${#files[@]} files"
