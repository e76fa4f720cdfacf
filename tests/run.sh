#!/bin/sh
# run.sh - runs every test program and the command-line regressions; the last line counts them.
# BIN is the folder of the programs, TESTS the test programs. Works from the repository root.
# as the programs set it for themselves: without it, tests crawl beside any busy process
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-4000}"
passed=0 failed=0 skipped=0 bad=
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

run() { # NAME COMMAND...: output goes to the log; the counts of its last line are added up
    name=$1
    shift
    "$@" > "$log" 2>&1
    status=$?
    counts=$(sed -n 's/.*: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$log" | tail -1)
    grep '^skip ' "$log"
    if [ $status -ne 0 ] || [ -z "$counts" ]; then
        cat "$log"
        echo "FAIL $name (exit status $status)"
        bad="$bad $name"
        [ -z "$counts" ] && counts="0 1 0"
    fi
    set -- $counts
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    [ $status -eq 0 ] && echo "ok   $name ($1)"
}

run layers sh -c 'make -s layers && echo "layers: 1 passed, 0 failed, 0 skipped"'
for t in $TESTS; do
    case $t in */test_*) run "$(basename "$t")" "$t" ;; esac
done
# the cases hold the CPU engine to its bits
run cli env CUDA_VISIBLE_DEVICES= sh tests/cli.sh "$BIN"

[ -n "$bad" ] && [ "$failed" -eq 0 ] && failed=1
[ -n "$bad" ] && echo "failed:$bad"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
