// SPDX-License-Identifier: Apache-2.0
//! Runs every plugin's `enqueue` on the GPU, inside a CUDA graph, and compares with the host kernels.
//!
//!   freqfusion_tensorrt_enqueue PLUGIN LIBNVINFER
//! For every type, layout and tactic. A graph is captured in the strictest mode, in which an allocation, a wait or the
//! default stream is an error. Padding channels hold NaN, so that reading one shows. Exit status 0 if all agree, 1 if
//! one does not, 2 if there is no GPU.
#include "plugin_client.h"

#include "../../kernels/adaptive_filter.h"
#include "../../kernels/deformable_attention.h"
#include "../../kernels/local_similarity.h"
#include "../../kernels/offset_resample.h"
#include "../../kernels/query_argmax.h"
#include "../../kernels/resize_argmax.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

namespace {

using namespace freqfusion;
using namespace freqfusion::tensorrt;

using Dims4 = std::vector<int64_t>;
using Values = std::vector<float>;

int gFailures = 0;

void check(cudaError_t status, char const* what)
{
    if (status != cudaSuccess) {
        std::printf("FAILED: %s: %s\n", what, cudaGetErrorString(status));
        std::exit(1);
    }
}

int64_t volume(Dims4 const& dims)
{
    int64_t product = 1;
    for (int64_t const size : dims) {
        product *= size;
    }
    return product;
}

std::size_t sizeOf(DataType type)
{
    return type == DataType::kFLOAT || type == DataType::kINT32 ? 4 : 2;
}

void store(float value, DataType type, void* at)
{
    if (type == DataType::kHALF) {
        __half const half = __float2half(value);
        std::memcpy(at, &half, sizeof half);
    } else if (type == DataType::kBF16) {
        __nv_bfloat16 const half = __float2bfloat16(value);
        std::memcpy(at, &half, sizeof half);
    } else {
        std::memcpy(at, &value, sizeof value);
    }
}

float load(DataType type, void const* at)
{
    if (type == DataType::kHALF) {
        __half half;
        std::memcpy(&half, at, sizeof half);
        return __half2float(half);
    }
    if (type == DataType::kBF16) {
        __nv_bfloat16 half;
        std::memcpy(&half, at, sizeof half);
        return __bfloat162float(half);
    }
    float value = 0.0F;
    std::memcpy(&value, at, sizeof value);
    return value;
}

//! A tensor (N, C, H, W) as it lies in device memory.
struct Image {
    PluginTensorDesc desc;
    std::vector<unsigned char> bytes;

    Image(DataType type, TensorFormat format, Dims4 const& dims) : desc{describe(type, format, dims)}
    {
        int64_t const pitch = format == TensorFormat::kHWC8 ? (dims[1] + 7) / 8 * 8 : 1;
        int64_t const count = pitch == 1 ? volume(dims) : dims[0] * dims[2] * dims[3] * pitch;
        bytes.resize(static_cast<std::size_t>(count) * sizeOf(type));
        for (std::size_t i = 0; i < bytes.size(); i += sizeOf(type)) {
            store(std::numeric_limits<float>::quiet_NaN(), type, &bytes[i]);
        }
    }

    //! Where the value of flat NCHW index `i` lies.
    void* at(int64_t i)
    {
        int64_t const* const d = desc.dims.d;
        int64_t index = i;
        if (desc.format == TensorFormat::kHWC8) {
            int64_t const plane = d[2] * d[3];
            int64_t const pixel = i / (d[1] * plane) * plane + i % plane;
            index = pixel * ((d[1] + 7) / 8 * 8) + i / plane % d[1];
        }
        return &bytes[static_cast<std::size_t>(index) * sizeOf(desc.type)];
    }
};

//! Random numbers in [-1, 1) that `type` can hold exactly.
Values random(int64_t count, DataType type, uint32_t seed)
{
    std::mt19937 generator{seed};
    std::uniform_real_distribution<float> uniform{-1.0F, 1.0F};
    Values values(static_cast<std::size_t>(count));
    for (float& value : values) {
        unsigned char rounded[4];
        store(uniform(generator), type, rounded);
        value = load(type, rounded);
    }
    return values;
}

//! One operator at one size, and how the host computes it from the inputs.
struct Case {
    char const* name;
    Fields fields;
    std::vector<Dims4> inputs;
    std::vector<Dims4> outputs; //!< the first is compared
    bool isLabelMap;
    bool isInRowsAlone; //!< without a channels-last format
    std::function<char const*(std::vector<Values> const&, void*)> onHost;
};

//! Enqueues through a graph and returns the first output's bytes. `outputs` are given with their size in bytes.
std::vector<unsigned char> enqueue(
    Plugin const& plugin, std::vector<Image> const& inputs, std::vector<Image>& outputs, std::string const& what)
{
    std::vector<PluginTensorDesc> in;
    std::vector<PluginTensorDesc> out;
    std::vector<void*> memory;
    auto const upload = [&](Image const& image, std::vector<PluginTensorDesc>& descs) {
        void* pointer = nullptr;
        check(cudaMalloc(&pointer, image.bytes.size()), "cudaMalloc");
        check(cudaMemcpy(pointer, image.bytes.data(), image.bytes.size(), cudaMemcpyHostToDevice), "upload");
        memory.push_back(pointer);
        descs.push_back(image.desc);
    };
    for (Image const& image : inputs) {
        upload(image, in);
    }
    for (Image const& image : outputs) {
        upload(image, out);
    }
    std::vector<void const*> const read(memory.begin(), memory.begin() + static_cast<std::ptrdiff_t>(inputs.size()));
    std::vector<void*> const written(memory.begin() + static_cast<std::ptrdiff_t>(inputs.size()), memory.end());

    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    int32_t status = runtime(plugin).onShapeChange(
        in.data(), static_cast<int32_t>(in.size()), out.data(), static_cast<int32_t>(out.size()));
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    status |= runtime(plugin).enqueue(in.data(), out.data(), read.data(), written.data(), nullptr, stream);
    check(cudaStreamEndCapture(stream, &graph), (what + ": enqueue in a graph").c_str());
    if (status != 0) {
        std::printf("FAILED: %s: enqueue or onShapeChange refused\n", what.c_str());
        std::exit(1);
    }
    check(cudaGraphInstantiate(&ready, graph, 0), "instantiate");
    check(cudaGraphLaunch(ready, stream), "launch");
    check(cudaStreamSynchronize(stream), (what + ": run").c_str());
    check(cudaMemcpy(outputs[0].bytes.data(), written[0], outputs[0].bytes.size(), cudaMemcpyDeviceToHost), "download");
    check(cudaGraphExecDestroy(ready), "destroy");
    check(cudaGraphDestroy(graph), "destroy");
    check(cudaStreamDestroy(stream), "destroy");
    for (void* const pointer : memory) {
        check(cudaFree(pointer), "cudaFree");
    }
    return outputs[0].bytes;
}

//! Largest error over the largest answer; for labels the share that differs.
double errorOf(Case const& wanted, Image& output, std::vector<unsigned char> const& answer)
{
    int64_t const count = volume(wanted.outputs[0]);
    double error = 0.0;
    double largest = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        if (wanted.isLabelMap) {
            error += std::memcmp(output.at(i), &answer[static_cast<std::size_t>(i) * 4], 4) == 0 ? 0.0 : 1.0;
            continue;
        }
        double const expected = load(DataType::kFLOAT, &answer[static_cast<std::size_t>(i) * 4]);
        double const actual = load(output.desc.type, output.at(i));
        error =
            std::isnan(actual) ? std::numeric_limits<double>::infinity() : std::max(error, std::abs(actual - expected));
        largest = std::max(largest, std::abs(expected));
    }
    return wanted.isLabelMap ? error / static_cast<double>(count) : error / largest;
}

// Host and device round the same inputs; what is left is the rounding of the output, at most half a unit in the last
// place, and of fp32 sums in another order. Labels differ where two scores are that close.
double tolerance(Case const& wanted, DataType type)
{
    if (wanted.isLabelMap) {
        return 1e-3;
    }
    return type == DataType::kHALF ? std::ldexp(1.0, -10) : type == DataType::kBF16 ? std::ldexp(1.0, -7) : 1e-5;
}

void run(Case const& wanted, DataType type, TensorFormat format)
{
    std::vector<Values> values;
    std::vector<Image> inputs;
    for (Dims4 const& dims : wanted.inputs) {
        values.push_back(random(volume(dims), type, static_cast<uint32_t>(values.size()) + 1));
        inputs.emplace_back(type, format, dims);
        for (int64_t i = 0; i < volume(dims); ++i) {
            store(values.back()[static_cast<std::size_t>(i)], type, inputs.back().at(i));
        }
    }
    std::vector<unsigned char> answer(static_cast<std::size_t>(volume(wanted.outputs[0])) * 4);
    if (char const* const reason = wanted.onHost(values, answer.data())) {
        std::printf("FAILED: %s: the host kernel says %s\n", wanted.name, reason);
        std::exit(1);
    }

    Plugin const plugin = make(wanted.name, wanted.fields);
    std::vector<DynamicPluginTensorDesc> configured;
    for (Image const& image : inputs) {
        configured.push_back({image.desc, image.desc.dims, image.desc.dims, image.desc.dims});
    }
    build(plugin).configurePlugin(configured.data(), static_cast<int32_t>(configured.size()), nullptr, 0);
    std::vector<int32_t> tactics(static_cast<std::size_t>(build(plugin).getNbTactics()));
    build(plugin).getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size()));
    tactics.push_back(0);
    for (int32_t const tactic : tactics) {
        std::string const what = std::string{wanted.name} + " type " + std::to_string(static_cast<int32_t>(type))
                                 + " format " + std::to_string(static_cast<int32_t>(format)) + " tactic "
                                 + std::to_string(tactic);
        std::vector<Image> outputs;
        for (Dims4 const& dims : wanted.outputs) {
            bool const isInteger = wanted.isLabelMap || !outputs.empty(); // those after the first carry sizes
            outputs.emplace_back(isInteger ? DataType::kINT32 : type, isInteger ? TensorFormat::kLINEAR : format, dims);
        }
        if (runtime(plugin).setTactic(tactic) != 0) {
            std::printf("FAILED: %s: setTactic refused\n", what.c_str());
            ++gFailures;
            continue;
        }
        enqueue(plugin, inputs, outputs, what);
        double const error = errorOf(wanted, outputs[0], answer);
        bool const isRight = error <= tolerance(wanted, type);
        std::printf("%s: %s: error %.2e, allowed %.2e\n", isRight ? "ok" : "FAILED", what.c_str(), error,
            tolerance(wanted, type));
        gFailures += isRight ? 0 : 1;
    }
}

constexpr ThreadPool kNoPool{nullptr, nullptr, 1};
Values const kWindow = {0.5F, 1.0F, 0.5F, 1.0F, 2.0F, 1.0F, 0.5F, 1.0F, 0.25F};

std::vector<Case> cases()
{
    std::vector<Case> all;
    for (int32_t const channels : {64, 25}) {
        all.push_back({"Carafe", {{{"kernel_size", 5}, {"group_size", 1}, {"scale_factor", 2}}, {}},
            {{2, channels, 13, 19}, {2, 25, 26, 38}}, {{2, channels, 26, 38}}, false, false,
            [channels](std::vector<Values> const& in, void* out) {
                return runCarafeOnHost(
                    {2, channels, 13, 19, 5, 1, 2}, DType::kFloat32, in[0].data(), in[1].data(), out, kNoPool);
            }});
    }
    all.push_back({"Carafe", {{{"kernel_size", 5}, {"group_size", 1}, {"scale_factor", 2}, {"padding", 1}}, {}},
        {{1, 40, 5, 6}, {1, 25, 10, 12}}, {{1, 40, 10, 12}}, false, false,
        [](std::vector<Values> const& in, void* out) {
            return runCarafeOnHost(
                {1, 40, 5, 6, 5, 1, 2, Padding::kReflect}, DType::kFloat32, in[0].data(), in[1].data(), out, kNoPool);
        }});
    for (int32_t const mode : {0, 1, 2}) {
        all.push_back(
            {"AdaptiveFilter", {{{"kernel_size", 3}, {"group_size", 2}, {"scale_factor", 1}, {"mode", mode}}, kWindow},
                {{1, 48, 17, 11}, {1, 18, 17, 11}}, {{1, 48, 17, 11}}, false, false,
                [mode](std::vector<Values> const& in, void* out) {
                    return runAdaptiveFilterOnHost({{1, 48, 17, 11, 3, 2, 1}, static_cast<FilterMode>(mode)},
                        DType::kFloat32, in[0].data(), in[1].data(), kWindow.data(), out, kNoPool);
                }});
    }
    all.push_back({"LocalSimilarity", {{{"kernel_size", 3}, {"dilation", 2}}, {}}, {{2, 30, 9, 14}}, {{2, 8, 9, 14}},
        false, false, [](std::vector<Values> const& in, void* out) {
            return runLocalSimilarityOnHost({2, 30, 9, 14, 3, 2}, DType::kFloat32, in[0].data(), out, kNoPool);
        }});
    all.push_back({"OffsetResample", {{{"groups", 4}}, {}}, {{1, 20, 14, 22}, {1, 32, 7, 11}}, {{1, 20, 14, 22}}, false,
        false, [](std::vector<Values> const& in, void* out) {
            return runOffsetResampleOnHost(
                {1, 20, 7, 11, 4}, DType::kFloat32, in[0].data(), in[1].data(), out, kNoPool);
        }});
    all.push_back({"ResizeArgmax", {{{"align_corners", 0}}, {}}, {{1, 21, 8, 12}}, {{1, 75, 101}, {64}, {96}}, true,
        false, [](std::vector<Values> const& in, void* out) {
            return runResizeArgmaxOnHost({1, 21, 8, 12, 64, 96, 75, 101, false}, DType::kFloat32, in[0].data(),
                static_cast<int32_t*>(out), kNoPool);
        }});
    DeformableAttentionShape const pyramid{2, 3, 16, 2, 4, {5, 9}, {7, 4}};
    all.push_back({"DeformableAttention", {{{"levels", 2}}, {}}, {{2, 71, 3, 16}, {2, 71, 3, 16}, {2, 71, 3, 8}},
        {{2, 71, 3, 16}, {5}, {7}, {9}, {4}}, false, true, [pyramid](std::vector<Values> const& in, void* out) {
            return runDeformableAttentionOnHost(
                pyramid, DType::kFloat32, in[0].data(), in[1].data(), in[2].data(), out, kNoPool);
        }});
    all.push_back({"QueryArgmax", {}, {{2, 30, 8, 12}, {2, 30, 22}}, {{2, 45, 71}, {32}, {48}, {29}, {43}}, true, true,
        [](std::vector<Values> const& in, void* out) {
            return runQueryArgmaxOnHost({2, 30, 21, 8, 12, 32, 48, 29, 43, 45, 71}, DType::kFloat32, in[0].data(),
                in[1].data(), static_cast<int32_t*>(out), kNoPool);
        }});
    return all;
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 3) {
        std::fprintf(stderr, "usage: freqfusion_tensorrt_enqueue PLUGIN LIBNVINFER\n");
        return 2;
    }
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        std::fprintf(stderr, "there is no GPU; run this on a machine that has one\n");
        return 2;
    }
    open(argv[2]);
    if (Registry{}.loadLibrary(argv[1]) == nullptr) {
        std::printf("FAILED: the registry does not load %s\n", argv[1]);
        return 1;
    }
    for (Case const& wanted : cases()) {
        for (DataType const type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
            run(wanted, type, TensorFormat::kLINEAR);
        }
        if (wanted.isInRowsAlone) {
            continue;
        }
        for (DataType const type : {DataType::kHALF, DataType::kBF16}) {
            run(wanted, type, TensorFormat::kHWC8);
        }
    }
    return gFailures == 0 ? 0 : 1;
}
