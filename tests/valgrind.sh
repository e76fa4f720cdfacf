#!/bin/sh
# valgrind.sh - golden and hostile cases under valgrind: no access outside what was allocated, no use
# of what was not set, nothing lost. Usage: sh tests/valgrind.sh BUILD_DIR, from the repository root,
# where BUILD_DIR holds the test programs, and it or its parent the programs. Valgrind knows no
# AVX-512, so that the engine takes its AVX2 form.
[ $# -eq 1 ] && [ -d "$1" ] || { echo "usage: sh tests/valgrind.sh BUILD_DIR, from the repository root" >&2; exit 2; }
command -v valgrind > /dev/null || { echo "skip valgrind: it is not installed"; echo "valgrind: 0 passed, 0 failed, 1 skipped"; exit 0; }
B=$1 BIN=$1
[ -x "$BIN/okv" ] || BIN=$1/..
WORK=$(mktemp -d) || exit 1
trap 'rm -rf "$WORK"' EXIT
trap 'exit 1' HUP INT TERM
# With GOMP_SPINCOUNT set a program does not start itself anew, which valgrind could not follow.
OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000
export OMP_NUM_THREADS GOMP_SPINCOUNT
unset SAVE_SELECTED_IDX
G=tests/data/golden Q=tests/data/golden/models/qwen2 P=configs/demo/pocket-llama
passed=0 failed=0

# What HDF5 itself allocates and loses when it meets a damaged file or a full disk is not ours; a
# handle that is not closed would not show here, since the library closes them all at exit.
cat > "$WORK/hdf5.supp" << 'END'
{
   inside-hdf5
   Memcheck:Leak
   match-leak-kinds: definite
   fun:*alloc
   obj:*libhdf5*
}
END

# STATUS COMMAND...: under valgrind it ends with STATUS; 9 is a finding, 124 a hang.
run() {
    want=$1
    shift
    timeout 300 valgrind -q --error-exitcode=9 --leak-check=full --suppressions="$WORK/hdf5.supp" --errors-for-leak-kinds=definite \
        --show-leak-kinds=definite "$@" > "$WORK/out" 2> "$WORK/err" < "$WORK/in"
    status=$?
    if [ $status -eq "$want" ] && ! grep -q '^==[0-9]*==' "$WORK/err"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL (status $status, expected $want) $*"
        tail -40 "$WORK/err"
    fi
}

: > "$WORK/in"
echo '[1, 2, 3]' > "$WORK/three.json"
echo '[1, 512]' > "$WORK/outside.json"
head -c 400 $Q/config.json > "$WORK/garbage"
for s in 1 2; do echo '{"task": "x", "ids": [1, 2, 3, 4, 5, 6, 7, 8], "n_prefill": 5, "spans": [[5, 8]]}'; done > "$WORK/suite.jsonl"
echo '{"model_cls": "multi", "do_select_layers": "0", "num_wait_load_layers": 0, "num_of_selected_tokens": 3, "selector_cls": "uniform", "window_size": 2, "pool": "group"}' > "$WORK/omnikv.json"

# Hostile input: files of every kind, cut and flipped at seeded places.
for t in test_config test_weights test_run_config test_suite test_dump_hostile test_dump_codec test_chat test_measure; do
    run 0 "$B/$t"
done

# Golden models, and every subcommand once on the smallest.
for m in $G/models/*; do
    run 0 "$BIN/okv" logits --model "$m" --ids "$WORK/three.json" --out "$WORK/l.h5"
done
printf 'Hello <|eot_id|> w\303\266rld' > "$WORK/in"
run 0 "$BIN/okv" tokenize --model $P --special
printf 'ab\377' > "$WORK/in"
run 1 "$BIN/okv" tokenize --model $P
: > "$WORK/in"
run 0 "$BIN/okv" generate --model $P --prompt 'The quick' --max-new 2 --json
run 0 "$BIN/okv" generate --model $Q --config "$WORK/omnikv.json" --ids "$WORK/three.json" --max-new 4 --seed 1
run 0 "$BIN/okv" eval --model $Q --config "$WORK/omnikv.json" --data "$WORK/suite.jsonl" --out "$WORK/out.json"
run 0 "$BIN/okv" search --model $Q --data "$WORK/suite.jsonl" --k 2
run 0 "$BIN/okv" gen kv --model $P --tokens 250 --count 1
run 0 "$BIN/okv" info --model $Q --json
run 0 "$BIN/okv" trace --model $Q --config "$WORK/omnikv.json" --data "$WORK/suite.jsonl" --out "$WORK/o.h5"
run 0 "$BIN/okv" trace --model $Q --data "$WORK/suite.jsonl" --out "$WORK/d.h5" \
    --fields mass,score,topk,attn,importance,reuse_error,prefill_score
for c in show check "rank --k 2" "search --k 2" overlap hits "missing --filters 0 --k 2" sparsity tokens "export --format config --k 2"; do
    run 0 "$BIN/okv-analyze" $c "$WORK/d.h5"
done
run 0 "$BIN/okv-analyze" missing "$WORK/o.h5"

# What must be refused, cleanly.
head -c 9000 "$WORK/d.h5" > "$WORK/cut.h5"
run 1 "$BIN/okv-analyze" rank "$WORK/cut.h5"
run 1 "$BIN/okv-analyze" check "$WORK/garbage"
run 1 "$BIN/okv" logits --model $Q --ids "$WORK/outside.json" --out "$WORK/x.h5"
run 1 "$BIN/okv" generate --model $Q --ids "$WORK/garbage"
run 1 "$BIN/okv" generate --model $Q --config "$WORK/garbage" --ids "$WORK/three.json"
run 1 "$BIN/okv" trace --model $Q --ids "$WORK/three.json" --fields mess --out "$WORK/x.h5"
run 2 "$BIN/okv" search --model $Q --set 0 --bogus
run 1 "$BIN/okv-plot" rank "$WORK/garbage" --out "$WORK/x.svg"

echo "valgrind: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
