/* main.c - okv: the table of its subcommands. */
#include "core/base/command.h"
#include "core/cmd/cmd.h"

int main(int argc, char **argv)
{
    static const struct command table[] = {
        {"trace", cmd_trace, "decode and record what every layer attends to, into HDF5"},
        {"generate", cmd_generate, "continue a prompt"},
        {"eval", cmd_eval, "score a method on a suite of prompts with known answers"},
        {"search", cmd_search, "find the filter layers by running every candidate"},
        {"bench", cmd_bench, "measure latency against context length"},
        {"logits", cmd_logits, "write the logits of a teacher-forced pass"},
        {"tokenize", cmd_tokenize, "turn text on stdin into token ids"},
        {"gen", cmd_gen, "make synthetic long-context tasks"},
        {"info", cmd_info, "describe a model: shape, memory, what is supported"},
        {0},
    };
    return command_main("okv",
                        "okv - a traced Llama inference core: which layers must see everything?",
                        table, argc, argv);
}
