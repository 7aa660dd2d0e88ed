// SPDX-License-Identifier: Apache-2.0
//! The names under which every front-end registers the operators. The exporter writes the same into the ONNX file
//! (`export/freqfusion_export/passes/name_tensorrt_plugins.py`); tests/plugins/test_identity.py ties the two together.
#pragma once

#include <cstdint>

namespace freqfusion {

constexpr char const* kDomain = "freqfusion";          //!< ONNX domain
constexpr char const* kPluginNamespace = "freqfusion"; //!< TensorRT plugin namespace
constexpr char const* kPluginVersion = "1";            //!< bumped when an attribute changes its meaning

//! What the runtime asks a library before it uses it (`INTERFACE` in sessions/kernel_library.py): raised whenever a
//! kernel gives other numbers than before, or a function that the library exports changes. Libraries of another number
//! are not used, since nothing but their numbers would tell that they are old.
constexpr int32_t kInterface = 1;

} // namespace freqfusion
