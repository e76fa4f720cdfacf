/* half.h - 16-bit floats: IEEE binary16 ("f16") and bfloat16 ("bf16"), one value at a time. */
#ifndef CORE_BASE_HALF_H
#define CORE_BASE_HALF_H

#include <stdint.h>
#include <string.h>

/* The types a weight or a dump field can be stored in. */
enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

static inline size_t dtype_size(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

static inline const char *dtype_name(enum dtype t)
{
    return t == DTYPE_F32 ? "f32" : t == DTYPE_F16 ? "f16" : "bf16";
}

static inline float bf16_to_f32(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float f16_to_f32(uint16_t h)
{
    _Float16 v;
    memcpy(&v, &h, sizeof v);
    return (float)v;
}

/* Rounds to nearest even; beyond 65,504 (plus half a step) it becomes infinity. */
static inline uint16_t f32_to_f16(float f)
{
    _Float16 v = (_Float16)f;
    uint16_t h;
    memcpy(&h, &v, sizeof h);
    return h;
}

#endif
