/* main.c - okv-analyze: the table of its subcommands. */
#include "analyze/cmd.h"
#include "core/base/command.h"

int main(int argc, char **argv)
{
    static const struct command table[] = {
        {"show", analyze_show, "what a dump holds: run, dimensions, samples, fields, sizes"},
        {"check", analyze_check, "read every byte and say what is not whole"},
        {"rank", analyze_rank, "score every layer as a filter layer, by published metrics"},
        {"search", analyze_search, "choose filter layers: quality against full layers"},
        {"overlap", analyze_overlap, "how alike the selections of layers, heads or steps are"},
        {"hits", analyze_hits, "mass and recall against budget: own, reused, lagged sets"},
        {"missing", analyze_missing, "attention that a selection misses, step by step"},
        {"sparsity", analyze_sparsity, "attention held by each layer's own top k"},
        {"tokens", analyze_tokens, "the prompt's text with the selected tokens marked"},
        {"score", analyze_score, "benchmark scores from prediction files"},
        {"export", analyze_export, "a choice of layers in the form other programs read"},
        {0},
    };
    return command_main("okv-analyze",
                        "okv-analyze - what did every layer attend to, and who can do for whom?",
                        table, argc, argv);
}
