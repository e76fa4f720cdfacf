/* far.h - attention that keeps its distances: who sees what, as plain functions of positions that
 * all backends share. docs/methods.md (infllm) gives it in words.
 *
 * Queries go in groups that choose blocks together. A group that follows T tokens knows the blocks
 * [n_init + b * block_size, + block_size) that have left the window of its first query by then;
 * what is between the last of them and a query's window is the remainder. The row at pos sees a
 * list, ascending: of the tokens before its window (distance >= n_local) the first n_init, those of
 * the group's chosen blocks, the remainder; and then its window.
 */
#ifndef CORE_OPS_FAR_H
#define CORE_OPS_FAR_H

#include "core/ops/ops.h"

#include <limits.h>

/* Tokens before the window of the row at POS: also where its window begins. */
static inline int far_edge(const struct far_rule *r, int pos)
{
    return pos >= r->n_local ? pos - r->n_local + 1 : 0;
}

/* Blocks that a group may choose from when T tokens are before it. */
static inline int far_blocks(const struct far_rule *r, int T)
{
    const long past = (long)T - r->n_init - r->n_local;
    return r->topk > 0 && past > 0 ? (int)(past / r->block_size) : 0;
}

/* One past the last row of the group that POS is in, when the prompt has N tokens. Groups of a
 * prompt end at multiples of exc_block_size. Its last token chooses for itself, as every decoded
 * one does: the original feeds it alone. Without blocks there is nothing to choose. */
static inline int far_group_end(const struct far_rule *r, int N, int pos)
{
    if (r->topk == 0) return INT_MAX;
    if (pos >= N - 1) return pos + 1;
    const int end = pos - pos % r->exc_block_size + r->exc_block_size;
    return end < N - 1 ? end : N - 1;
}

/* Of a list with CHOSEN blocks (of those known when T tokens were there), the entries that the row
 * at POS sees; all others stand behind them. */
static inline int far_count(const struct far_rule *r, int T, int chosen, int pos)
{
    const int edge = far_edge(r, pos);
    if (edge <= r->n_init) return edge;
    const int rest = r->n_init + far_blocks(r, T) * r->block_size; /* where the remainder starts */
    return r->n_init + chosen * r->block_size + (r->topk > 0 && edge > rest ? edge - rest : 0);
}

#endif
