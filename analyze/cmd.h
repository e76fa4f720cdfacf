/* cmd.h - okv-analyze's subcommands: each takes its own argv and returns the exit status. */
#ifndef ANALYZE_CMD_H
#define ANALYZE_CMD_H

int analyze_show(int argc, char **argv);
int analyze_check(int argc, char **argv);
int analyze_rank(int argc, char **argv);
int analyze_search(int argc, char **argv);
int analyze_overlap(int argc, char **argv);
int analyze_hits(int argc, char **argv);
int analyze_missing(int argc, char **argv);
int analyze_sparsity(int argc, char **argv);
int analyze_tokens(int argc, char **argv);
int analyze_score(int argc, char **argv);
int analyze_export(int argc, char **argv);

#endif
