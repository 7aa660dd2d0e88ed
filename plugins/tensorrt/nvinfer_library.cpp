// SPDX-License-Identifier: Apache-2.0
#include "nvinfer_library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <initializer_list>

namespace freqfusion::tensorrt {
namespace {

constexpr MethodTable kMethodTables[] = {
    {10, 0, 0, 12, 15},
    {11, 4, 4, 8, 11},
};
constexpr int32_t kSeverityError = 1; // ILogger::Severity::kERROR, in every version

template <typename Function>
Function symbol(void* library, char const* name) noexcept
{
    return reinterpret_cast<Function>(dlsym(library, name));
}

NvInferLibrary nvInferIn(char const* path) noexcept
{
    void* const library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) {
        return {};
    }
    NvInferLibrary found;
    auto const majorVersion = symbol<int32_t (*)() noexcept>(library, "getInferLibMajorVersion");
    found.getPluginRegistry = symbol<decltype(found.getPluginRegistry)>(library, "getPluginRegistry");
    found.getLogger = symbol<decltype(found.getLogger)>(library, "getLogger");
    dlclose(library); // gives back this look-up's reference; whoever loaded the library holds another
    if (majorVersion == nullptr || found.getPluginRegistry == nullptr || found.getLogger == nullptr) {
        return {};
    }
    found.major = majorVersion();
    found.methods = methodTable(found.major);
    return found;
}

struct Search {
    char path[4096];
};

//! Keeps the path only: the loader's lock is held here, so nothing may be opened.
int keepNvInferPath(dl_phdr_info* info, std::size_t, void* context) noexcept
{
    char const* const path = info->dlpi_name;
    char const* const slash = path == nullptr ? nullptr : std::strrchr(path, '/');
    char const* const file = slash == nullptr ? path : slash + 1;
    if (file == nullptr || std::strlen(path) >= sizeof(Search::path)) {
        return 0;
    }
    for (char const* const name : {"libnvinfer.so", "libnvinfer_lean.so", "libnvinfer_dispatch.so"}) {
        if (std::strncmp(file, name, std::strlen(name)) == 0) {
            std::strcpy(static_cast<Search*>(context)->path, path);
            return 1;
        }
    }
    return 0;
}

} // namespace

MethodTable const* methodTable(int32_t major) noexcept
{
    for (MethodTable const& table : kMethodTables) {
        if (table.major == major) {
            return &table;
        }
    }
    return nullptr;
}

NvInferLibrary nvInferAt(void const* address) noexcept
{
    Dl_info info{};
    return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? nvInferIn(info.dli_fname) : NvInferLibrary{};
}

NvInferLibrary loadedNvInfer() noexcept
{
    Search search{};
    dl_iterate_phdr(keepNvInferPath, &search);
    return search.path[0] == '\0' ? NvInferLibrary{} : nvInferIn(search.path);
}

bool logError(nvinfer1::ILoggerFinder* finder, char const* message) noexcept
{
    try {
        // TensorRT's own finder has its method table in the library that made it, which tells the version.
        NvInferLibrary library = finder != nullptr ? nvInferAt(*reinterpret_cast<void**>(finder)) : NvInferLibrary{};
        if (library.major == 0) {
            library = loadedNvInfer();
        }
        if (library.methods == nullptr) {
            return false;
        }
        nvinfer1::ILogger* logger = nullptr;
        if (finder != nullptr) {
            logger = callMethod<nvinfer1::ILogger*>(finder, library.methods->findLogger);
        }
        if (logger == nullptr) {
            logger = library.getLogger();
        }
        if (logger == nullptr) {
            return false;
        }
        callMethod<void>(logger, library.methods->log, kSeverityError, message);
        return true;
    } catch (...) { // findLogger is not noexcept
        return false;
    }
}

} // namespace freqfusion::tensorrt
