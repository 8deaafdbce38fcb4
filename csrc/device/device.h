// Everything a kernel may use of the chip. The only inline PTX of the project is in this folder; each wrapper has a
// software twin in csrc/emulator and a conformance test (tests/test_conformance.py).
#pragma once

#include "device/async.h"
#include "device/atomic.h"
#include "device/index.h"
#include "device/launch.h"
#include "device/math.h"
#include "device/memory.h"
#include "device/mma.h"
#include "device/sync.h"
#include "device/types.h"
#include "device/warp.h"
