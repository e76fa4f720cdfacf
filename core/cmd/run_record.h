/* run_record.h - OUT/run.json: what the predictions of a folder were made with, so that a run that
 * goes on, or another shard, adds only what belongs with them.
 */
#ifndef CORE_CMD_RUN_RECORD_H
#define CORE_CMD_RUN_RECORD_H

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Makes the folder OUT where it is missing and holds it, against other processes that start, until
 * run_record_release(). *MADE says whether it was made. A descriptor, or -1 after fail(). */
int run_record_hold(const char *out, bool *made);
void run_record_release(int held);

/* Compares RECORD with OUT/run.json, member by member, "okv" (who wrote it) left out; *THERE is
 * false where there is none, or no prediction beside it. 0, or -1 after fail() that names the
 * first member that differs. */
int run_record_check(const char *out, const cJSON *record, bool *there);

/* Writes it. 0, or -1 after fail(). */
int run_record_write(const char *out, const cJSON *record);

#endif
