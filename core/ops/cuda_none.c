/* cuda_none.c - a build without the CUDA compiler: there is no device. */
#include "core/base/base.h"
#include "core/ops/ops.h"

int cuda_devices(void)
{
    return 0;
}

char *cuda_refusal(const struct model_config *c)
{
    (void)c;
    return xprintf("this program was built without the CUDA compiler (nvcc)");
}

const struct ops *ops_cuda(int index)
{
    fail("--device cuda:%d: this program was built without the CUDA compiler (nvcc)", index);
    return NULL;
}

const struct weights_home *cuda_weights_home(void)
{
    return NULL;
}
