/* scored.c - the scorer's verdict on a line of predictions. */
#include "tests/scored.h"
#include "analyze/sample.h"

#include <string.h>

bool scorer_takes(const char *task, bool by_length, const char *line, size_t n)
{
    struct sample s = {0};
    const struct task *t = task_find(task, strlen(task));
    const bool taken = t && sample_read("line", line, n, t, by_length, &s) == 0;
    sample_free(&s);
    return taken;
}
