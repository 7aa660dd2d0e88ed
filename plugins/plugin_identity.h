// SPDX-License-Identifier: Apache-2.0
//! The names under which every front-end registers the operators. The exporter writes the same into the ONNX file
//! (`export/freqfusion_export/passes/name_tensorrt_plugins.py`); tests/plugins/test_identity.py ties the two together.
#pragma once

namespace freqfusion {

constexpr char const* kDomain = "freqfusion";          //!< ONNX domain
constexpr char const* kPluginNamespace = "freqfusion"; //!< TensorRT plugin namespace
constexpr char const* kPluginVersion = "1";            //!< bumped when an attribute changes its meaning

} // namespace freqfusion
