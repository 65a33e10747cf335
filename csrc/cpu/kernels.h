// The kernels that are compiled once for each instruction set, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "cpu/flows_kernels.h"
#include "cpu/labels_kernels.h"
#include "cpu/paste_kernels.h"
#include "cpu/tiles_kernels.h"
#include "cpu/watershed_kernels.h"

namespace cellpost::cpu {

struct Kernels {
  const char* level;
  TraceKernels tracing;
  DiffusionKernels diffusion;
  WatershedKernels watershed;
  PasteKernels paste;
  LabelKernels labels;
  TileKernels tiles;
};

namespace baseline {
TraceKernels trace_kernels();
DiffusionKernels diffusion_kernels();
WatershedKernels watershed_kernels();
PasteKernels paste_kernels();
LabelKernels label_kernels();
TileKernels tile_kernels();
}  // namespace baseline
namespace avx2 {
TraceKernels trace_kernels();
DiffusionKernels diffusion_kernels();
WatershedKernels watershed_kernels();
PasteKernels paste_kernels();
LabelKernels label_kernels();
TileKernels tile_kernels();
}  // namespace avx2
namespace avx512 {
TraceKernels trace_kernels();
DiffusionKernels diffusion_kernels();
WatershedKernels watershed_kernels();
PasteKernels paste_kernels();
LabelKernels label_kernels();
TileKernels tile_kernels();
}  // namespace avx512

/// The kernels in use: those of the highest level this CPU has, or of the level that was asked for.
const Kernels& kernels();
/// Levels that this build and this CPU have, lowest first.
std::vector<std::string> levels();
/// An empty name asks for the highest. Throws std::invalid_argument for one that is not there.
void set_level(const std::string& name);

}  // namespace cellpost::cpu
