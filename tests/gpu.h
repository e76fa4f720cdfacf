/* gpu.h - device memory for the tests of kernels. */
#ifndef TESTS_GPU_H
#define TESTS_GPU_H

#include "core/ops/cuda_kernels.h"
#include "tests/check.h"

/* Opens the first GPU; false, with a skip said and counted for NAME, where there is none. */
bool gpu_open(const char *name);

/* Device memory with a copy of BYTES of FROM, or (NULL) filled with 0xff, which is NaN in every
 * float: what is never written shows. Released by gpu_release(). */
void *gpu_put(const void *from, size_t bytes);
void gpu_get(void *to, const void *from, size_t bytes); /* waits for all work first */
void *gpu_zero(size_t bytes);
void gpu_release(void);

/* N random values in [-limit, limit), rounded to TYPE, in device memory as TYPE; *EXACT, unless
 * NULL, receives them as float32 (freed by gpu_release()). DTYPE_F32 is float32. */
struct rng;
void *gpu_random(struct rng *r, size_t n, float limit, enum dtype type, float **exact);

/* Entry I of X [..] of TYPE, 16-bit, in host memory. */
double gpu_value(const void *x, size_t i, enum dtype type);

/* The relative error that N roundings of float32 come to at most: n u / (1 - n u), u = 2^-24.
 * Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, lemma 3.1. */
double gpu_gamma(double n);

#endif
