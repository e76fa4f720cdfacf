#!/bin/sh
# demo.sh OUT - the whole toolkit on the pocket model: generate tasks, trace, rank, search, evaluate, draw.
# OKV is the folder of the programs; everything made goes to OUT. Each step prints its command.
set -eu
out=$1
okv=$OKV/okv analyze=$OKV/okv-analyze plot=$OKV/okv-plot
model=configs/demo/pocket-llama
k=32       # tokens the sparse layers see, of about 1,500
max_full=4 # layers of 12 that may see everything

step() {
    printf '\n== %s\n' "$1"
    shift
}
show() { # runs a command after printing it; TO=FILE redirects its output
    if [ -n "${TO:-}" ]; then
        printf '   %s > %s\n' "$*" "$TO"
        "$@" > "$TO"
    else
        printf '   %s\n' "$*"
        "$@"
    fi
}
config() { # FILE LAYERS WAIT: an OmniKV config as the original writes it
    printf '{"model_cls": "multi", "cache_cls": "multi", "dense_more": true, "real_offload": false,
 "do_select_layers": "%s", "num_wait_load_layers": %s, "selector_cls": "last",
 "num_of_selected_tokens": %s}\n' "$2" "$3" "$k" > "$1"
}

rm -rf "$out"
mkdir -p "$out"

step "1. Tasks: prompts whose answers are known, for the search and, of another seed, for the proof"
for task in passkey kv twostage hops; do
    TO=$out/$task.search.jsonl show "$okv" gen $task --model $model --tokens 1500 --count 3 --seed 1
    TO=$out/$task.unseen.jsonl show "$okv" gen $task --model $model --tokens 1500 --count 5 --seed 2
done
cat "$out"/*.search.jsonl > "$out/search.jsonl"
cat "$out"/*.unseen.jsonl > "$out/unseen.jsonl"
for task in passkey kv twostage hops; do head -1 "$out/$task.search.jsonl"; done > "$out/traced.jsonl"

step "2. Trace: what every layer attends to while it answers"
show "$okv" trace --model $model --data "$out/traced.jsonl" --out "$out/trace.h5" \
    --fields mass,score,topk,importance,reuse_error --reuse-k $k
show "$analyze" show "$out/trace.h5" | sed -n '1,12p'

step "3. Rank the layers, and look at how their selections overlap"
show "$analyze" rank "$out/trace.h5" --k $k --out "$out/rank.tsv"
show "$analyze" overlap "$out/trace.h5" --k $k --out "$out/overlap.tsv"
show "$analyze" hits "$out/trace.h5" --out "$out/hits.tsv"
show "$analyze" sparsity "$out/trace.h5" --out "$out/sparsity.tsv"
TO=$out/analysis.tsv show "$analyze" search "$out/trace.h5" --k $k --max-full $max_full
tail -2 "$out/analysis.tsv"

step "4. Search by running: every candidate, judged by the answers it gives"
TO=$out/found.txt show "$okv" search --model $model --data "$out/search.jsonl" --k $k --max-full $max_full \
    --out "$out/search.tsv"
cat "$out/found.txt"
found=$(sed -n 's/^do_select_layers: //p' "$out/found.txt")
wait=$(sed -n 's/^num_wait_load_layers: //p' "$out/found.txt")
# the worst set of the same cost
bad=$(awk -F'\t' -v f="$found" -v w="$wait" '$1 ~ /^[0-9]/ { n++; full[n] = $3; nll[n] = $4; row[n] = $1 "\t" $2
        if ($1 == f && $2 == w) cost = $3 }
    END { for (i = 1; i <= n; i++) if (full[i] == cost && nll[i] > worst) { worst = nll[i]; r = row[i] }; print r }' \
    "$out/search.tsv")
by_trace=$(sed -n 's/^do_select_layers: //p' "$out/analysis.tsv")
config "$out/found.json" "$found" "$wait"
config "$out/bad.json" "$(printf '%s' "$bad" | cut -f1)" "$(printf '%s' "$bad" | cut -f2)"
config "$out/trace.json" "$by_trace" "$(sed -n 's/^num_wait_load_layers: //p' "$out/analysis.tsv")"
printf '{"model_cls": "raw_llama"}\n' > "$out/dense.json"
printf '{"model_cls": "raw_llama", "use_sink_cache": true, "num_sink_tokens": 4, "sink_window_length": %s}\n' \
    $((k - 4)) > "$out/window.json"

step "5. The proof: prompts that no choice has seen"
for run in dense found trace bad window; do
    TO=$out/$run.tsv show "$okv" eval --model $model --config "$out/$run.json" --data "$out/unseen.jsonl"
done

step "6. What the found set looks at: one prompt, traced under it"
head -1 "$out/kv.unseen.jsonl" > "$out/one.jsonl"
show "$okv" trace --model $model --config "$out/found.json" --data "$out/one.jsonl" --out "$out/found.h5"
show "$analyze" tokens "$out/found.h5" --selected --html "$out/tokens.html"
show "$analyze" missing "$out/trace.h5" --filters "$found" --wait "$wait" --k $k --mean --out "$out/missing.tsv"

step "7. Latency on this machine"
show "$okv" bench --model $model --config "$out/dense.json" --config "$out/found.json" \
    --context 1K,2K,4K,8K --steps 24 --out "$out/latency.tsv"

step "8. Figures and the report"
show "$plot" rank "$out/rank.tsv" --mark "$found" --out "$out/rank.svg" --out "$out/rank.png"
show "$plot" overlap "$out/overlap.tsv" --out "$out/overlap.svg" --out "$out/overlap.png"
show "$plot" hits "$out/hits.tsv" --out "$out/hits.svg" --out "$out/hits.png"
show "$plot" missing "$out/missing.tsv" --out "$out/missing.svg" --out "$out/missing.png"
show "$plot" latency "$out/latency.tsv" --out "$out/latency.svg" --out "$out/latency.png"
show "$plot" accuracy dense="$out/dense.tsv" "found by running=$out/found.tsv" "found from the trace=$out/trace.tsv" \
    "bad set, same cost=$out/bad.tsv" window="$out/window.tsv" --out "$out/accuracy.svg" --out "$out/accuracy.png"
show "$plot" report configs/demo/report.json --dir "$out" --out "$out/report.html"

printf '\n== Answers kept, of unseen prompts (%s selected tokens of about 1,500)\n' $k
for run in dense found trace bad window; do
    awk -F'\t' -v name="$run" -v set="$(sed -n 's/.*"do_select_layers": "\([^"]*\)".*/\1/p' "$out/$run.json")" \
        '$1 == "all" { printf "   %-7s %-10s %3d of %3d   accuracy %.3f   nll %s\n", name, set, $2, $3, $4, $5 }' "$out/$run.tsv"
done
printf '\nbest set      do_select_layers: %s   num_wait_load_layers: %s\n' "$found" "$wait"
printf 'report        %s/report.html\n' "$out"
