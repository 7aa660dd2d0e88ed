// SPDX-License-Identifier: Apache-2.0
//! The library's interface: `RegisterCustomOps`, which ONNX Runtime calls, and which path a session's nodes took.
#include "operators.h"

#include <array>
#include <memory>
#include <mutex>
#include <string_view>

#if defined(__GNUC__)
#define FREQFUSION_EXPORT __attribute__((visibility("default")))
#else
#define FREQFUSION_EXPORT
#endif

namespace freqfusion::ort {
namespace {

struct Counter {
    char const* operatorName;
    bool onCuda;
    char const* name; //!< as reported
};

constexpr std::array<Counter, 14> kCounters{{
    {Carafe::kName, false, "Carafe/cpu"},
    {AdaptiveFilter::kName, false, "AdaptiveFilter/cpu"},
    {LocalSimilarity::kName, false, "LocalSimilarity/cpu"},
    {OffsetResample::kName, false, "OffsetResample/cpu"},
    {ResizeArgmax::kName, false, "ResizeArgmax/cpu"},
    {PrepareImage::kName, false, "PrepareImage/cpu"},
    {PyramidRoiAlign::kName, false, "PyramidRoiAlign/cpu"},
    {Convolve3x3::kName, false, "Convolve3x3/cpu"},
    {Carafe::kName, true, "Carafe/cuda"},
    {AdaptiveFilter::kName, true, "AdaptiveFilter/cuda"},
    {LocalSimilarity::kName, true, "LocalSimilarity/cuda"},
    {OffsetResample::kName, true, "OffsetResample/cuda"},
    {ResizeArgmax::kName, true, "ResizeArgmax/cuda"},
    {PyramidRoiAlign::kName, true, "PyramidRoiAlign/cuda"},
}};

struct Readable {
    char const* operatorName;
    char const* attributes;
};

template <typename... Ops>
constexpr std::array<Readable, sizeof...(Ops)> readableOf()
{
    return {{{Ops::kName, Ops::kAttributes}...}};
}

constexpr auto kReadable = readableOf<Carafe, AdaptiveFilter, LocalSimilarity, OffsetResample, ResizeArgmax,
    PrepareImage, PyramidRoiAlign, Convolve3x3>();

//! Of this thread alone: a session makes its kernels in the thread that creates it, so the difference over the creation
//! is that session's, whatever other threads do.
thread_local std::array<int64_t, kCounters.size()> tKernels{};

//! The domain with its operators; ONNX Runtime keeps pointers to both.
class Domain {
  public:
    Domain()
    {
        add<Carafe>();
        add<AdaptiveFilter>();
        add<LocalSimilarity>();
        add<OffsetResample>();
        add<ResizeArgmax>();
        add<PyramidRoiAlign>();
        add<Convolve3x3>({DType::kFloat32, false});
        add<PrepareImage>({DType::kFloat32, false}); // under other providers, too: pictures come from the host
    }

    void joinTo(OrtSessionOptions* options) { Ort::UnownedSessionOptions{options}.Add(mDomain); }

  private:
    template <typename Op>
    void add()
    {
        for (DType const dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
            add<Op>({dtype, false});
#if FREQFUSION_CUDA
            add<Op>({dtype, true});
#endif
        }
    }

    template <typename Op>
    void add(Placement placement)
    {
        auto* const custom = new CustomOperator<Op>{placement};
        mOperators.emplace_back(custom, [](OrtCustomOp* raw) { delete static_cast<CustomOperator<Op>*>(raw); });
        mDomain.Add(custom);
    }

    std::vector<std::unique_ptr<OrtCustomOp, void (*)(OrtCustomOp*)>> mOperators;
    Ort::CustomOpDomain mDomain{kDomain};
};

} // namespace

void countKernel(char const* name, bool onCuda)
{
    for (size_t i = 0; i < kCounters.size(); ++i) {
        if (kCounters[i].onCuda == onCuda && std::string_view{kCounters[i].operatorName} == name) {
            ++tKernels[i];
        }
    }
}

} // namespace freqfusion::ort

//! ONNX Runtime's entry point, by this name. Adds domain `freqfusion` to the options of a session.
extern "C" FREQFUSION_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, OrtApiBase const* base) noexcept
{
    using namespace freqfusion;
    OrtApi const* const api = base->GetApi(ort::kApiVersion);
    if (api == nullptr) {
        OrtApi const* const first = base->GetApi(1);
        std::string const message = std::string{"freqfusion: this library needs ONNX Runtime 1."}
                                    + std::to_string(ort::kApiVersion) + " or newer, this is "
                                    + base->GetVersionString();
        return first->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
    }
    try {
        static std::once_flag once;
        std::call_once(once, [api] { Ort::InitApi(api); });
        static ort::Domain domain;
        domain.joinTo(options);
        return nullptr;
    } catch (std::exception const& error) {
        return api->CreateStatus(ORT_FAIL, error.what());
    }
}

//! kInterface of this library's release; a library without this function is older.
extern "C" FREQFUSION_EXPORT int32_t freqfusion_onnxruntime_interface() noexcept
{
    return freqfusion::kInterface;
}

//! The names of the attributes that the kernel of an operator reads, with blanks between them; nullptr for an operator
//! without one. ONNX Runtime hands a node to a kernel whatever other attributes it has.
extern "C" FREQFUSION_EXPORT char const* freqfusion_onnxruntime_attributes(char const* operatorName) noexcept
{
    for (auto const& [name, attributes] : freqfusion::ort::kReadable) {
        if (std::string_view{name} == operatorName) {
            return attributes;
        }
    }
    return nullptr;
}

//! Name of counter `index`, "<operator>/<cpu or cuda>"; nullptr past the last.
extern "C" FREQFUSION_EXPORT char const* freqfusion_onnxruntime_kernel_name(int32_t index) noexcept
{
    using freqfusion::ort::kCounters;
    return index >= 0 && static_cast<size_t>(index) < kCounters.size() ? kCounters[static_cast<size_t>(index)].name
                                                                       : nullptr;
}

//! How many kernels the calling thread has made so far, for each counter, into `counts`; returns how many counters.
//! Read before and after creating a session in one thread, the difference is the number of that session's nodes that
//! run on these kernels; its other nodes of the domain run on their function bodies.
extern "C" FREQFUSION_EXPORT int32_t freqfusion_onnxruntime_kernel_counts(int64_t* counts) noexcept
{
    using freqfusion::ort::tKernels;
    for (size_t i = 0; i < tKernels.size(); ++i) {
        counts[i] = tKernels[i];
    }
    return static_cast<int32_t>(tKernels.size());
}
