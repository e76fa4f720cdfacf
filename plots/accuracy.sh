#!/bin/sh
# accuracy.sh - measures what each method keeps of the answers, and draws it.
# Usage: sh plots/accuracy.sh FOLDER [PART...]: from the repository root, after make; tables and figures go
# to FOLDER. Parts, both by default:
#   kept    methods x budgets x tasks on prompts of about 1,500 tokens: kept.tsv, kept.png
#   needle  a key hidden at each depth of prompts of 1K to 7K tokens: needle.tsv, needle.png
# LINES is the number of prompts of a task, and of a cell [16; 4 in a cell], TOKENS their length [1500],
# BUDGETS the tokens kept [16,32,64,128,256,512], BUDGET those of the needles [64], DEVICE as in okv eval,
# OKV and PLOT the programs [build/okv, build/okv-plot]. The model is pocket-llama, the methods those of
# configs/pocket. What is drawn is in docs/benchmarks.md.
OKV=${OKV:-build/okv} PLOT=${PLOT:-build/okv-plot} LINES=${LINES:-16} TOKENS=${TOKENS:-1500}
BUDGETS=${BUDGETS:-16,32,64,128,256,512} BUDGET=${BUDGET:-64} model=configs/demo/pocket-llama
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] && [ -d configs/pocket ] || { sed -n "3,/^OKV/s/^# //p" "$0" >&2; exit 2; }
folder=$1
shift
[ $# -gt 0 ] || set -- kept needle
for part; do
    case $part in
    kept | needle) ;;
    *) echo "accuracy.sh: unknown part \"$part\": expected kept or needle" >&2; exit 2 ;;
    esac
done
set -e
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# TABLE SUITE BUDGETS METHOD...: one table of all methods
evaluate() {
    table=$1 suite=$2 budgets=$3 configs=
    shift 3
    for method; do configs="$configs --config $method=configs/pocket/$method.json"; done
    # no name here holds a space
    "$OKV" eval --model $model ${DEVICE:+--device "$DEVICE"} $configs --budgets "$budgets" --data "$suite" --out "$table"
}

# FIGURE TABLE
draw() {
    if command -v gnuplot > /dev/null; then
        "$PLOT" "$1" "$2" --scripts plots --out "$folder/$1.png"
    else
        echo "accuracy.sh: no gnuplot here: $PLOT $1 $2 --out $1.png draws it elsewhere" >&2
    fi
}

for part; do
    case $part in
    kept)
        for task in passkey kv twostage hops; do
            "$OKV" gen $task --model $model --tokens "$TOKENS" --count "$LINES" --seed 11
        done > "$work/kept.jsonl"
        evaluate "$folder/kept.tsv" "$work/kept.jsonl" "$BUDGETS" \
            dense omnikv tidal quest infllm h2o window streaming
        draw kept "$folder/kept.tsv"
        ;;
    needle)
        "$OKV" gen needle --model $model --lengths 1K,2K,4K,7K --depths 0,0.25,0.5,0.75,1 \
            --count "$((LINES / 4 > 0 ? LINES / 4 : 1))" --seed 12 > "$work/needle.jsonl"
        evaluate "$folder/needle.tsv" "$work/needle.jsonl" "$BUDGET" dense omnikv quest infllm h2o streaming
        draw needle "$folder/needle.tsv"
        ;;
    esac
done
