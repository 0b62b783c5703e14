/* The two functions of NVTX that src/nvtx.rs calls, from NVIDIA's header-only version: a tool is looked for at the first
 * call (NVTX_INJECTION64_PATH, which Nsight Systems and Nsight Compute set), and without one a call is a load and a
 * comparison. */
#include <nvtx3/nvToolsExt.h>

void gramscope_nvtx_push(const char* name) { nvtxRangePushA(name); }

void gramscope_nvtx_pop(void) { nvtxRangePop(); }
