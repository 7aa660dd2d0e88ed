// SPDX-License-Identifier: Apache-2.0
//! One way to tell the user of a failure: TensorRT's logger where there is one, standard error otherwise.
#pragma once

#include "../plugin_identity.h"

#include <NvInferRuntime.h>

namespace freqfusion::tensorrt {

//! What a message is about.
struct Subject {
    char const* operatorName;
    char const* layerName; //!< nullptr or empty if unknown
};

//! Logs "freqfusion::Carafe (layer 'x'): " and the formatted rest as one error. Never throws.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void report(Subject const& subject, char const* format, ...) noexcept;

//! Remembers whom to ask for a logger; TensorRT calls this through `setLoggerFinder`. The first one stays.
void setLoggerSource(nvinfer1::ILoggerFinder* finder) noexcept;

} // namespace freqfusion::tensorrt
