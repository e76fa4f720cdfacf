/* cuda_ceilings.h - how fast the device moves bytes, and how long each kernel of a decode step
 * takes.
 */
#ifndef CORE_OPS_CUDA_CEILINGS_H
#define CORE_OPS_CUDA_CEILINGS_H

#include "core/ops/ops.h"

#include <cuda_runtime_api.h>

/* The entries `ceilings`, `memory` and `kernels` of struct ops, on STREAM. */
int cuda_ceilings(double rate[CEILINGS], cudaStream_t stream);
int cuda_memory(double *free_bytes, double *total);
int cuda_kernel_times(const struct model_config *c, const struct weights *w, const int *contexts,
                      int n, int k, struct kernel_time **rows, int *count, cudaStream_t stream);

#endif
