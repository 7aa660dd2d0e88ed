// SPDX-License-Identifier: Apache-2.0
//! How TensorRT finds the plugins, whichever way this library comes into the process.
//!
//! `IPluginRegistry::loadLibrary` opens the file and registers what `getCreators` returns, and fails if one of them is
//! registered already. `dlopen` and LD_PRELOAD run the constructor below and nothing else, so that must register them
//! itself. At that moment nobody can know which of the two is happening; therefore the constructor always registers and
//! `getCreators`, which only `loadLibrary` calls, first takes that back.
#include "adaptive_filter_plugin.h"
#include "carafe_plugin.h"
#include "local_similarity_plugin.h"
#include "nvinfer_library.h"
#include "offset_resample_plugin.h"
#include "resize_argmax_plugin.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define FREQFUSION_EXPORT extern "C" __attribute__((visibility("default")))

namespace freqfusion::tensorrt {
namespace {

constexpr int32_t kCreatorCount = 5;

std::atomic<bool> gRegisteredHere{false}; //!< the registry holds our creators because this file put them there

nvinfer1::IPluginCreatorInterface* const* creators() noexcept
{
    static OperatorCreator<CarafePlugin> carafe;
    static OperatorCreator<AdaptiveFilterPlugin> adaptiveFilter;
    static OperatorCreator<LocalSimilarityPlugin> localSimilarity;
    static OperatorCreator<OffsetResamplePlugin> offsetResample;
    static OperatorCreator<ResizeArgmaxPlugin> resizeArgmax;
    static nvinfer1::IPluginCreatorInterface* const all[kCreatorCount] = {
        &carafe, &adaptiveFilter, &localSimilarity, &offsetResample, &resizeArgmax};
    return all;
}

//! Whether this file was put into the process by LD_PRELOAD.
bool isPreloaded() noexcept
{
    char const* const preloaded = std::getenv("LD_PRELOAD");
    Dl_info self{};
    if (preloaded == nullptr || dladdr(reinterpret_cast<void const*>(&isPreloaded), &self) == 0) {
        return false;
    }
    char const* const slash = std::strrchr(self.dli_fname, '/');
    return std::strstr(preloaded, slash == nullptr ? self.dli_fname : slash + 1) != nullptr;
}

//! Loads libnvinfer as a library linked against it would have: a preloaded one comes before the program that needs it.
void loadNvInfer() noexcept
{
    char name[32];
    for (int32_t const major : {NV_TENSORRT_MAJOR, NV_TENSORRT_MAJOR + 1, NV_TENSORRT_MAJOR - 1}) {
        std::snprintf(name, sizeof name, "libnvinfer.so.%d", major);
        if (methodTable(major) != nullptr && dlopen(name, RTLD_NOW | RTLD_GLOBAL) != nullptr) {
            return;
        }
    }
}

//! Registers the creators with the TensorRT that is loaded. False if there is none, or it has other plugins of our
//! names.
bool registerCreators() noexcept
{
    NvInferLibrary const library = loadedNvInfer();
    if (library.methods == nullptr) {
        if (library.major != 0) {
            report({"plugins", nullptr},
                "TensorRT %d is loaded, expected 10 or 11. Load this library with IPluginRegistry::loadLibrary, or "
                "take "
                "a newer one.",
                library.major);
        }
        return false;
    }
    void* const registry = library.getPluginRegistry();
    int32_t registered = 0;
    for (int32_t i = 0; registry != nullptr && i < kCreatorCount; ++i) {
        registered += callMethod<bool>(registry, library.methods->registerCreator, creators()[i], kPluginNamespace);
    }
    gRegisteredHere = gRegisteredHere || registered > 0;
    return registered == kCreatorCount;
}

void withdrawCreators() noexcept
{
    NvInferLibrary const library = loadedNvInfer();
    if (library.methods == nullptr || !gRegisteredHere.exchange(false)) {
        return;
    }
    void* const registry = library.getPluginRegistry();
    for (int32_t i = 0; registry != nullptr && i < kCreatorCount; ++i) {
        callMethod<bool>(registry, library.methods->deregisterCreator, creators()[i]);
    }
}

__attribute__((constructor)) void onLoad() noexcept
{
    if (loadedNvInfer().major == 0 && isPreloaded()) {
        loadNvInfer();
    }
    registerCreators();
}

} // namespace
} // namespace freqfusion::tensorrt

FREQFUSION_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept
{
    freqfusion::tensorrt::withdrawCreators();
    count = freqfusion::tensorrt::kCreatorCount;
    return freqfusion::tensorrt::creators();
}

FREQFUSION_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    freqfusion::tensorrt::setLoggerSource(finder);
}

//! For a program that opened this library before TensorRT. True if the registry holds all plugins of this library.
FREQFUSION_EXPORT bool initFreqFusionPlugins() noexcept
{
    return freqfusion::tensorrt::gRegisteredHere || freqfusion::tensorrt::registerCreators();
}

//! Which TensorRT's headers this file was compiled with: 101400 for 10.14.0.
FREQFUSION_EXPORT int32_t freqFusionTensorRTHeaders() noexcept
{
    return NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
}

//! kInterface of this library's release; a library without this function is older.
FREQFUSION_EXPORT int32_t freqFusionInterface() noexcept
{
    return freqfusion::kInterface;
}

//! The version under which its plugins are registered; engines and ONNX files name it.
FREQFUSION_EXPORT char const* freqFusionPluginVersion() noexcept
{
    return freqfusion::kPluginVersion;
}
