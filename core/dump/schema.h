/* schema.h - every field a dump can hold: the writer, the reader's shape check, `okv-analyze show`
 * and the table in docs/dump-format.md are all generated from this list.
 *
 * One row a field: X(ID, "name", TYPE, "shape", "unit", "what"). Shape letters, slowest first:
 *   S traced steps  L layers  T prefill and decoded tokens  H query heads  G kv heads
 *   R rows of attn per layer (H, or G when pooled by kv head)  K entries of the compact form
 *   M filter layers  k selected tokens  2 a pair
 * TYPE: F16 (an IEEE 2-byte float; F32 with --f32), I32, U8.
 */
#ifndef CORE_DUMP_SCHEMA_H
#define CORE_DUMP_SCHEMA_H

/* What every sample has. */
#define DUMP_BASICS(X)                                                                             \
    X(TOKENS, "tokens", I32, "T", "id", "prompt, then decoded token ids")                          \
    X(TEXT, "text", U8, "B", "byte", "the bytes of all tokens, one after another")                 \
    X(TEXT_END, "text_end", I32, "T", "byte", "where each token ends in text")                     \
    X(STEP_POS, "step_pos", I32, "S", "position", "position of the token each step feeds")         \
    X(STEP_NLL, "step_nll", F32, "S", "nat",                                                       \
      "-ln p of the token each step feeds, given all before it; NaN where not measured")

/* What a trace is asked for. */
#define DUMP_FIELDS(X)                                                                             \
    X(MASS, "mass", F16, "SLT", "1", "attention weight, mean over heads; 0 where unseen")          \
    X(SCORE, "score", F16, "SLT", "1",                                                             \
      "the selector's pooled score; NaN where a sparse layer did not look, 0 past the step")       \
    X(TOPK_IDX, "topk_idx", I32, "SLK", "position",                                                \
      "the K candidates with the best score, best first; -1 pads")                                 \
    X(TOPK_MASS, "topk_mass", F16, "SLK", "1", "their attention weight, mean over heads")          \
    X(TOPK_TOTAL, "topk_total", F32, "SL", "1", "attention weight of all candidates together")     \
    X(SELECTED_IDX, "selected_idx", I32, "SMk", "position",                                        \
      "what the method used, ascending; -1 pads (attribute layers: the M filter layers)")          \
    X(ATTN, "attn", F16, "SLRT", "1",                                                              \
      "attention weight by head, or summed over a kv head's group")                                \
    X(IMPORTANCE, "importance", F32, "SL", "1", "1 - cos(x, x + attention output)")                \
    X(REUSE_ERROR, "reuse_error", F32, "SLL2", "1",                                                \
      "[i, j]: relative error, and cosine, of layer j's attention output with layer i's top k "    \
      "against its own top k; NaN for j < i (attribute k)")                                        \
    X(PREFILL_SCORE, "prefill_score", F32, "LGT", "1",                                             \
      "column sums of the prefill's attention, max over the kv head's query heads")

#define X(id, name, type, shape, unit, what) DUMP_##id,
enum dump_field { DUMP_BASICS(X) DUMP_FIELDS(X) DUMP_FIELD_COUNT };
#undef X

#endif
