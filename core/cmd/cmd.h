/* cmd.h - okv's subcommands, one file each. */
#ifndef CORE_CMD_CMD_H
#define CORE_CMD_CMD_H

int cmd_trace(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_search(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_gen(int argc, char **argv);
int cmd_info(int argc, char **argv);

#endif
