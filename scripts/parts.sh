# shellcheck shell=bash
# Runs the named parts of a check one after the other, keeps going when one fails, and ends with a table of seconds.
# Sourced. `part NAME COMMAND...` for each part, then `parts_end`.

# A script that calls another one hands its table down, so that one table comes out at the end.
if [[ -z ${DMS3_PARTS:-} ]]; then
    DMS3_PARTS=$(mktemp)
    export DMS3_PARTS
    parts_ours=yes
    trap 'rm -f "$DMS3_PARTS"' EXIT
else
    parts_ours=no
fi
parts_failed=0

part() {
    local name=$1 start end result=ok
    shift
    printf '\n== %s\n' "$name"
    start=$(date +%s.%N)
    if ! "$@"; then
        result=FAILED
        parts_failed=1
    fi
    end=$(date +%s.%N)
    printf '%s\t%s\t%s\n' "$name" "$(echo "$start $end" | awk '{printf "%.1f", $2 - $1}')" "$result" >>"$DMS3_PARTS"
    [[ $result == ok ]] || printf '== %s: FAILED\n' "$name"
}

# Prints the table if it is ours; 1 if a part failed.
parts_end() {
    if [[ $parts_ours == yes ]]; then
        printf '\n%-34s %9s\n' part seconds
        awk -F'\t' '{printf "%-34s %9.1f  %s\n", $1, $2, $3; all += $2} END {printf "%-34s %9.1f\n", "in all", all}' "$DMS3_PARTS"
    fi
    return "$parts_failed"
}
