// The emulator's face as a backend; its table of kernels is planner/gpu.cpp, as CUDA's is.
#include <thread>

#include "fastconv/plan.h"

namespace fastconv {

BackendInfo backend_info() {
  BackendInfo info;
  info.name = "emulator";
  info.available = true;
  info.devices = {"emulated"};
  info.details = {{"instructions", "sm_80: cp.async, ldmatrix, mma.sync (f16, bf16, tf32)"},
                  {"threads", std::to_string(std::thread::hardware_concurrency())}};
  return info;
}

}  // namespace fastconv
