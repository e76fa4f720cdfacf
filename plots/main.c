/* main.c - okv-plot: the table of its subcommands. */
#include "core/base/command.h"
#include "plots/figure.h"
#include "plots/report.h"

int main(int argc, char **argv)
{
    static const struct command table[] = {
        {"rank", figure_command, "curves over layers: which layers find what the next ones need"},
        {"overlap", figure_command, "heat map: how alike the selections are"},
        {"hits", figure_command, "attention mass and recall against the budget"},
        {"missing", figure_command, "attention mass missed, over decode steps"},
        {"latency", figure_command, "decode time against context length, with rooflines"},
        {"budget", figure_command, "decode time against the tokens selected, with rooflines"},
        {"accuracy", figure_command, "accuracy per task and method, with intervals"},
        {"kept", figure_command, "accuracy against the tokens kept, with bands"},
        {"needle", figure_command, "heat map: accuracy over length and depth, per method"},
        {"report", report_command, "one self-contained HTML file of figures, tables and text"},
        {0},
    };
    return command_main("okv-plot", "okv-plot - figures and a report from the tables of okv", table,
                        argc, argv);
}
