#!/bin/sh
# latency.sh - measures the tables behind the latency figures, on a machine with a GPU.
# Usage: sh plots/latency.sh FOLDER [PART...]: from the repository root, after make; the tables go to
# FOLDER. Parts, all of them by default, in this order:
#   kernels  each kernel of a decode step alone, 4K to 512K tokens
#   resident full and omnikv, 4K to 1M tokens
#   offload  omnikv with real_offload, without_pack, brutal_offload
#   peers    h2o, quest, tidal, streaming and infllm beside full and omnikv, 4K to 450K tokens; prefill
#   budget   128 to 6,400 selected tokens at 128K
#   filters  filter sets of 8, 6, 5 and 3 full layers, at 128K, 256K and 450K
#   prefill  8K, 32K and 128K tokens
#   trace    what tracing adds to a step at 128K
# A part that fails, or exceeds its time limit, leaves no table; the others still run, and the exit
# status is 1. OKV names the program [build/okv], DEVICE the device [cuda:0], SHAPE the model
# [llama-3-8b]. docs/bench.md explains the columns; all parts take about five minutes on an H200.
OKV=${OKV:-build/okv} DEVICE=${DEVICE:-cuda:0} SHAPE=${SHAPE:-llama-3-8b}
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] && [ -f configs/omnikv.json ] || { sed -n "3,/^OKV/s/^# //p" "$0" >&2; exit 2; }
folder=$1 status=0
shift
[ $# -gt 0 ] || set -- kernels resident offload peers budget filters prefill trace
for part; do
    case " kernels resident offload peers budget filters prefill trace " in
    *" $part "*) ;;
    *) echo "latency.sh: unknown part \"$part\"; sh plots/latency.sh lists them" >&2; exit 2 ;;
    esac
done
"$OKV" --help > /dev/null 2>&1 || { echo "latency.sh: $OKV does not run; make it first" >&2; exit 1; }
mkdir -p "$folder" || exit 1
dumps=$(mktemp -d) || exit 1
trap 'rm -rf "$dumps"' EXIT
trap 'exit 1' HUP INT TERM

# NAME SECONDS OPTION...: one call, its table FOLDER/NAME.tsv
measure() {
    name=$1 limit=$2
    shift 2
    rm -f "$folder/$name.tsv"
    timeout "$limit" "$OKV" bench --shape "$SHAPE" --device "$DEVICE" "$@" --out "$folder/$name.tsv"
    code=$?
    [ $code -eq 0 ] && return
    echo "latency.sh: $name: exit status $code" >&2
    status=1
}

full=full=configs/full.json omnikv=configs/omnikv.json offload=configs/omnikv-offload.json
for part; do
    case $part in
    kernels) measure kernels 60 --kernels ;;
    resident)
        measure resident 90 --context 4K,8K,16K,32K,64K,128K,256K,450K,512K,1M --config $full --config $omnikv
        ;;
    offload) # what is pinned for a point takes longer than its steps: fewer contexts
        measure offload 150 --context 4K,32K,128K,256K,450K,1M --config $offload
        measure without-pack 90 --context 4K,32K,128K,450K --config configs/omnikv-without-pack.json
        measure brutal-offload 90 --context 4K,32K,128K --steps 5 --config configs/brutal-offload.json
        ;;
    peers) # 2,048 tokens each
        measure peers 150 --context 4K,32K,128K,256K,450K --config $full --config $omnikv --peers
        measure peers-prefill 200 --context 8K,32K,128K --prefill --steps 8 --config $full --peers
        ;;
    budget)
        measure budget 60 --context 128K --config $full --config $omnikv --budgets 128,256,512,1024,2048,4096,6400
        measure budget-offload 90 --context 128K --config $offload --budgets 512,2048,6400
        ;;
    filters)
        measure filters 60 --context 128K,256K,450K --config $full \
            --config "8 full layers=configs/omnikv.json" --config "6 full layers=configs/omnikv-6-full.json" \
            --config "5 full layers=configs/omnikv-5-full.json" --config "3 full layers=configs/omnikv-3-full.json"
        ;;
    prefill) measure prefill 90 --context 8K,32K,128K --prefill --steps 8 --config $full ;;
    trace)
        measure trace-topk 60 --context 128K --steps 64 --config $full --trace topk --dump "$dumps/topk"
        measure trace-mass-score 90 --context 128K --steps 64 --config $full --trace mass,score --dump "$dumps/mass"
        ;;
    esac
done
exit $status
