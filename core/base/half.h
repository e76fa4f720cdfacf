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

/* Rounds to nearest even. */
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* stays a NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Exact. Plain arithmetic: compilers before GCC 12 have no 16-bit float on x86. */
static inline float f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    uint32_t bits = rest + (112u << 23); /* the exponent's bias goes from 15 to 127 */
    float f;
    if (rest >= 0x0f800000u) bits += 112u << 23; /* infinity and NaN */
    if (rest < 0x00800000u) { /* zero and subnormals: let the float unit normalise 2^-14 * 0.m */
        const uint32_t one = 113u << 23;
        float base;
        bits = rest + one;
        memcpy(&f, &bits, sizeof f);
        memcpy(&base, &one, sizeof base);
        f -= base;
        memcpy(&bits, &f, sizeof bits);
    }
    bits |= sign;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Rounds to nearest even; from 65,520 on it becomes infinity. */
static inline uint16_t f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (size <
        0x38800000) { /* below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits */
        const uint32_t half = 126u << 23;
        float a, b;
        memcpy(&a, &size, sizeof a);
        memcpy(&b, &half, sizeof b);
        a += b;
        memcpy(&bits, &a, sizeof bits);
        return (uint16_t)(sign | (bits - half));
    }
    return (uint16_t)(sign | ((size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13));
}

#endif
