#!/bin/sh
# cli.sh - runs the command-line regressions of tests/cli.reg against the programs in a folder.
# Usage: sh tests/cli.sh BIN [TEXT]: from the repository root; with TEXT only the cases whose title
# holds it. tests/cli.reg begins with how a case is written.
[ $# -ge 1 ] && BIN=$(cd "$1" && pwd) && [ -f tests/cli.reg ] || { echo "usage: sh tests/cli.sh BIN [TEXT], from the repository root" >&2; exit 2; }
only=${2-}
LC_ALL=C
export LC_ALL
unset OMP_NUM_THREADS OMP_WAIT_POLICY GOMP_SPINCOUNT SAVE_SELECTED_IDX CDPATH
umask 022
WORK=$(mktemp -d) || exit 1
trap 'chmod -R u+rwX "$WORK"; rm -rf "$WORK"' EXIT
trap 'exit 1' HUP INT TERM
C=$WORK/cases T=$WORK/t G=$PWD/tests/data/golden P=$PWD/configs/demo/pocket-llama
M=$G/models
Q=$M/qwen2 # the smallest checkpoint
mkdir "$C" "$T"

# ---- what cases may call

# The programs by name; one that hangs fails its case with status 124.
mkdir "$WORK/bin"
for p in okv okv-analyze okv-plot; do
    printf '#!/bin/sh\nexec timeout 120 "%s" "$@"\n' "$BIN/$p" > "$WORK/bin/$p"
    chmod +x "$WORK/bin/$p"
done
PATH=$WORK/bin:$PATH

rows() { grep -v '^#' "$@"; }                        # a table without its provenance
ints() { tr -d ' \n' < "$2" | sed "s/.*\"$1\":\[\([^]]*\)\].*/\1/"; } # KEY FILE: a JSON list
head_ids() { echo "[$(ints ids "$2" | cut -d, -f1-"$1")]"; }          # N FILE: its first ids
same() { [ "$1" = "$2" ] || { echo "expected: $1"; echo "found:    $2"; return 1; }; }
absent() { for f; do [ ! -e "$f" ] || { echo "is there: $f"; return 1; }; done; }
# SECONDS FILE: until FILE is there
await() { n=$(($1 * 50)); while [ ! -e "$2" ] && [ $n -gt 0 ]; do sleep 0.02; n=$((n - 1)); done; [ -e "$2" ]; }
# ROW COLS FILE: one row of the float32 matrix that FILE (.h5 of okv logits, .npy) ends with, of ROWS
floats() { tail -c $(($2 * $3 * 4)) "$4" | tail -c +$(($1 * $3 * 4 + 1)) | head -c $(($3 * 4)); }
floats_all() { tail -c $(($1 * $2 * 4)) "$3"; } # ROWS COLS FILE
# ROWS COLS WANTED FOUND: the two matrices agree to 0.001 of the standard deviation of WANTED
logits_agree() {
    floats_all "$1" "$2" "$3" | od -An -v -w4 -t f4 > "$T/.wanted"
    floats_all "$1" "$2" "$4" | od -An -v -w4 -t f4 > "$T/.found"
    paste "$T/.wanted" "$T/.found" | awk -v n=$(($1 * $2)) '
        { d = $1 - $2; if (d < 0) d = -d; if (d > most) most = d; s += $1; q += $1 * $1 }
        END { sd = sqrt(q / NR - (s / NR) ^ 2)
              if (NR != n || !(most <= 0.001 * sd)) { print most / sd " of the deviation, " NR " numbers"; exit 1 } }' || return 1
    rm "$T/.wanted" "$T/.found"
}
# A copy of checkpoint DIR at NEW with FROM replaced by TO in its config.json
variant() { rm -rf "$2"; cp -r "$1" "$2"; chmod -R u+w "$2"; sed "s/$3/$4/" "$1/config.json" > "$2/config.json"; ! cmp -s "$1/config.json" "$2/config.json"; }
# FILE: these weights with the last 64 numbers, the final norm's in bf16, as NaN
nan_weights() { head -c $(($(wc -c < "$1") - 128)) "$1"; head -c 128 /dev/zero | tr '\0' '\377'; }

# PROGRAM FOLDER: each subcommand's --help exits 0, says nothing on stderr, names every option its
# source has, and each option it names is one.
helps() {
    for s in $("$BIN/$1" --help | sed -n 's/^  \([a-z]*\)  *.*/\1/p'); do
        "$BIN/$1" "$s" --help > "$T/.help" 2> "$T/.err" || echo "$1 $s --help: exit status $?"
        [ -s "$T/.err" ] && echo "$1 $s --help: speaks on stderr"
        [ "$(head -c 6 "$T/.help")" = Usage: ] || echo "$1 $s --help: does not start with Usage:"
        awk 'length > 100 { exit 1 }' "$T/.help" || echo "$1 $s --help: a line is wider than 100"
        file=$2/$s.c
        if [ -f "$file" ]; then
            files=$file
            grep -q ENGINE_OPTIONS "$file" && files="$files core/cmd/common.h"
            grep -q SEARCH_SPECS "$file" && files="$files analyze/search.h"
            for o in $(grep -oh '"-[-a-z0-9]*", OPT_' $files | sed 's/", OPT_//; s/"//'); do
                grep -q -e "$o\([ ,=)]\|\]\|\$\)" "$T/.help" || echo "$1 $s --help: does not name $o"
            done
        fi
        for o in $(grep '^  --' "$T/.help" | grep -o -e '--[a-z0-9-]*' | sort -u); do
            "$BIN/$1" "$s" "$o" < /dev/null 2>&1 | grep -q 'unknown option' && echo "$1 $s --help: names $o, which is unknown"
        done
    done > "$T/.bad"
    rm -f "$T/.help" "$T/.err"
    cat "$T/.bad"
    [ ! -s "$T/.bad" ]
}

# ---- the cases, one folder each: title, setup, run, status, out, like, err, need
awk -v C="$C" '
    function put(name, text) { print text > (dir "/" name); close_later[dir "/" name] }
    /^= / { for (f in close_later) close(f); delete close_later
            dir = sprintf("%s/%03d", C, ++n); system("mkdir " dir); put("title", substr($0, 3)); next }
    /^#/ || /^$/ { next }
    { kind = substr($0, 1, 1); text = substr($0, 3) }
    kind == "+" { put("setup", text); next }
    kind == "$" { put("run", text); next }
    kind == "?" { put("status", text); next }
    kind == ">" { put("out", text); next }
    kind == "~" { put("like", text); next }
    kind == "!" { put("err", text); next }
    kind == "@" { put("need", text); next }
    { print "tests/cli.reg:" NR ": not a line of a case: " $0; bad = 1; exit }
    END { exit bad }' tests/cli.reg || exit 1

passed=0 failed=0 skipped=0 ready=1

# Says what is wrong with the case in folder $c: nothing when it is as it should be.
judge() {
    want=$(cat "$c/status" 2> /dev/null || echo 0)
    [ "$status" = "$want" ] || echo "exit status $status, expected $want"
    if [ -f "$c/out" ]; then
        cmp -s "$c/out" "$WORK/out" || diff "$c/out" "$WORK/out" | sed 's/^/stdout: /' | head -20
    elif [ ! -f "$c/like" ] && [ "$want" != 0 ] && [ -s "$WORK/out" ]; then
        sed 's/^/stdout of a run that fails: /' "$WORK/out" | head -5
    fi
    for stream in out err; do
        patterns=$c/like
        [ $stream = err ] && patterns=$c/err
        [ -f "$patterns" ] || continue
        while IFS= read -r p; do
            grep -Eq -e "$p" "$WORK/$stream" || { echo "std$stream: no line like: $p"; head -5 "$WORK/$stream"; }
        done < "$patterns"
    done
    if [ "$want" != 0 ]; then
        [ "$(wc -l < "$WORK/err")" -le 3 ] || { echo "more than 3 lines on stderr:"; head -6 "$WORK/err"; }
        [ -s "$WORK/err" ] || echo "no message on stderr"
        grep -v '^okv[-a-z]*: ' "$WORK/err" | sed 's/^/not a message of the program: /'
        find "$T" | sort > "$WORK/after"
        cmp -s "$WORK/before" "$WORK/after" || diff "$WORK/before" "$WORK/after" | sed -n 's/^>/left behind:/p; s/^</gone:/p'
    elif grep -q 'error:' "$WORK/err"; then
        echo "an error although the exit status is 0:"
        head -3 "$WORK/err"
    elif [ "$status" != 0 ]; then
        head -5 "$WORK/out" "$WORK/err"
    fi
    find "$T" \( -name '*.tmp*' -o -name '*.part' \) | sed 's/^/left behind: /'
}

for c in "$C"/*; do
    title=$(cat "$c/title")
    case $title in *"$only"*) ;; *) [ -f "$c/run" ] && continue ;; esac # setup alone always runs
    if [ -f "$c/need" ] && ! (eval "$(cat "$c/need")") > /dev/null 2>&1; then
        echo "skip $title: needs $(cat "$c/need")"
        skipped=$((skipped + 1))
        continue
    fi
    if [ -f "$c/setup" ] && ! (set -e; eval "$(cat "$c/setup")") > "$WORK/out" 2>&1; then
        echo "FAIL $title: its preparation"
        cat "$WORK/out"
        failed=$((failed + 1))
        continue
    fi
    [ -f "$c/run" ] || continue
    find "$T" | sort > "$WORK/before"
    (set -e; eval "$(cat "$c/run")") > "$WORK/out" 2> "$WORK/err" < /dev/null
    status=$?
    judge > "$WORK/verdict" 2>&1
    if [ -s "$WORK/verdict" ]; then
        echo "FAIL $title"
        sed 's/^/    $ /' "$c/run"
        sed 's/^/    /' "$WORK/verdict"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done
echo "cli: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
