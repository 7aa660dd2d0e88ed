// SPDX-License-Identifier: Apache-2.0
//! Opens libfreqfusion_tensorrt.so and asks it for plugins as a program with TensorRT would, for either major version.
#pragma once

#include "../nvinfer_library.h"

#include "../../plugin_identity.h"

#include <NvInferRuntime.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace freqfusion::tensorrt {

using namespace nvinfer1;

inline void* open(std::string const& path)
{
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::printf("FAILED: %s\n", dlerror());
        std::exit(1);
    }
    return library;
}

//! The methods of IPluginRegistry used here, by their distance from registerCreator: equal in TensorRT 10 and 11.
class Registry {
  public:
    Registry() : mLibrary{loadedNvInfer()}, mRegistry{mLibrary.getPluginRegistry()} {}

    void* loadLibrary(std::string const& path) { return call<void*>(-2, path.c_str()); }
    void deregisterLibrary(void* handle) { call<void>(-1, handle); }
    int32_t count()
    {
        int32_t result = 0;
        call<IPluginCreatorInterface* const*>(1, &result);
        return result;
    }
    IPluginCreatorV3One* creator(char const* name)
    {
        return static_cast<IPluginCreatorV3One*>(
            call<IPluginCreatorInterface*>(2, name, freqfusion::kPluginVersion, freqfusion::kPluginNamespace));
    }

  private:
    template <typename Result, typename... Arguments>
    Result call(int32_t distance, Arguments... arguments)
    {
        return callMethod<Result>(mRegistry, mLibrary.methods->registerCreator + distance, arguments...);
    }

    NvInferLibrary mLibrary;
    void* mRegistry;
};

//! Attributes of a node as the parser hands them over.
struct Fields {
    std::map<std::string, int32_t> ints;
    std::vector<float> window;
    std::vector<PluginField> list{};
    PluginFieldCollection whole{};

    PluginFieldCollection const* collection()
    {
        list.clear();
        for (auto const& [name, value] : ints) {
            list.emplace_back(name.c_str(), &value, PluginFieldType::kINT32, 1);
        }
        if (!window.empty()) {
            list.emplace_back("window", window.data(), PluginFieldType::kFLOAT32, static_cast<int32_t>(window.size()));
        }
        whole = {static_cast<int32_t>(list.size()), list.data()};
        return &whole;
    }
};

using Plugin = std::unique_ptr<IPluginV3>;

inline Plugin make(char const* name, Fields fields, TensorRTPhase phase = TensorRTPhase::kBUILD)
{
    IPluginCreatorV3One* const creator = Registry{}.creator(name);
    return Plugin{creator == nullptr ? nullptr : creator->createPlugin("layer", fields.collection(), phase)};
}

inline IPluginV3OneCore& core(Plugin const& plugin)
{
    return *static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
}
inline IPluginV3OneBuild& build(Plugin const& plugin)
{
    return *static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}
inline IPluginV3OneRuntime& runtime(Plugin const& plugin)
{
    return *static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

inline PluginTensorDesc describe(DataType type, TensorFormat format, std::vector<int64_t> const& dims = {1, 8, 4, 6})
{
    PluginTensorDesc desc{};
    desc.type = type;
    desc.format = format;
    desc.scale = 1.0F;
    desc.dims.nbDims = static_cast<int32_t>(dims.size());
    std::copy(dims.begin(), dims.end(), desc.dims.d);
    return desc;
}

} // namespace freqfusion::tensorrt
