// SPDX-License-Identifier: Apache-2.0
//! The few calls this library makes into TensorRT, without linking against it and for either major version.
//!
//! Plugins, creators, descriptors and shape expressions have one binary layout in TensorRT 10 and 11 (the 10.14
//! and 11.1 headers compared). The logger, the logger finder and the registry do not: 11 put version methods before
//! ILogger::log and ILoggerFinder::findLogger and took the IPluginV2 overloads out of IPluginRegistry. A library
//! compiled against one version would call another method under the other, so these three are called by position in
//! their method table, chosen by the version of the libnvinfer that is really there.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

namespace freqfusion::tensorrt {

//! Positions of the methods called here. Itanium C++ ABI: declaration order, a virtual destructor takes two.
struct MethodTable {
    int32_t major; //!< of TensorRT
    int32_t log;
    int32_t findLogger;
    int32_t registerCreator;
    int32_t deregisterCreator;
};

//! The table of that major version of TensorRT, or nullptr if it is not known.
[[nodiscard]] MethodTable const* methodTable(int32_t major) noexcept;

//! Calls the method at `position` of `object`'s method table.
template <typename Result, typename... Arguments>
Result callMethod(void* object, int32_t position, Arguments... arguments)
{
    using Method = Result (*)(void*, Arguments...);
    return (*static_cast<Method const* const*>(object))[position](object, arguments...);
}

//! A libnvinfer that is in this process: the full, the lean or the dispatch runtime.
struct NvInferLibrary {
    MethodTable const* methods{nullptr}; //!< nullptr: none is loaded, or of an unknown major version
    int32_t major{0};                    //!< 0: none is loaded
    nvinfer1::IPluginRegistry* (*getPluginRegistry)() noexcept {nullptr};
    nvinfer1::ILogger* (*getLogger)() noexcept {nullptr};
};

//! The library `address` belongs to. All zero if that is no libnvinfer.
[[nodiscard]] NvInferLibrary nvInferAt(void const* address) noexcept;

//! The first one loaded, privately (as Python does) or not. All zero if there is none.
[[nodiscard]] NvInferLibrary loadedNvInfer() noexcept;

//! Logs through the finder, else through the loaded library's own logger. Returns false if neither has one.
[[nodiscard]] bool logError(nvinfer1::ILoggerFinder* finder, char const* message) noexcept;

} // namespace freqfusion::tensorrt
