/* rope.h - rotary embedding parameters as config.json spells them; private to core/model. */
#ifndef CORE_MODEL_ROPE_H
#define CORE_MODEL_ROPE_H

#include "core/model/config.h"

/* Reads the RoPE keys of the config.json object ROOT for heads of width D, in the old spelling
 * (rope_theta, rope_scaling) or the new (rope_parameters); NAME stands for the file in messages.
 * 0, or -1 after fail(): an unknown kind, a parameter missing or out of range, or two spellings
 * that contradict each other. */
int rope_config_read(struct rope_config *r, const char *name, const cJSON *root, int max_position,
                     int D);

#endif
