// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include "nvinfer_library.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace freqfusion::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> gLoggerFinder{nullptr};

} // namespace

void setLoggerSource(nvinfer1::ILoggerFinder* finder) noexcept
{
    nvinfer1::ILoggerFinder* none = nullptr;
    gLoggerFinder.compare_exchange_strong(none, finder);
}

void report(Subject const& subject, char const* format, ...) noexcept
{
    char message[1024];
    bool const hasLayer = subject.layerName != nullptr && subject.layerName[0] != '\0';
    int used = hasLayer ? std::snprintf(message, sizeof message,
                              "freqfusion::%s (layer '%.200s'): ", subject.operatorName, subject.layerName)
                        : std::snprintf(message, sizeof message, "freqfusion::%s: ", subject.operatorName);
    if (used < 0) {
        used = 0;
    }
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message + used, sizeof message - static_cast<std::size_t>(used), format, arguments);
    va_end(arguments);

    if (!logError(gLoggerFinder.load(), message)) {
        std::fprintf(stderr, "[freqfusion] %s\n", message);
    }
}

} // namespace freqfusion::tensorrt
