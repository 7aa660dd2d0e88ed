// SPDX-License-Identifier: Apache-2.0
//! Checks libfreqfusion_tensorrt.so through TensorRT's C++ interfaces, where Python's bindings do not reach.
//!
//!   freqfusion_tensorrt_probe PLUGIN LIBNVINFER CHECK
//! The registry is LIBNVINFER's own. Exit status 0 if the check holds, else 1 and a line for each thing found wrong.
#include "plugin_client.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <unistd.h>

namespace {

using namespace nvinfer1;
using namespace freqfusion::tensorrt;

int gFailures = 0;

void expect(bool holds, std::string const& what)
{
    if (!holds) {
        ++gFailures;
        std::printf("FAILED: %s\n", what.c_str());
    }
}

std::string gPlugin;
std::string gNvInfer;

//! An object of a foreign class, made of its method table alone: the class differs between versions of TensorRT.
struct Foreign {
    void* const* table{methods};
    void* methods[16]{};
};

std::vector<std::string> gLog;

void keepMessage(void*, int32_t severity, char const* message)
{
    expect(severity == 1, "messages are errors");
    gLog.emplace_back(message);
}

Foreign gLogger;

void* findLogger(void*)
{
    return &gLogger;
}

//! Sends the plugin's messages to gLog, through a finder and a logger of the layout that the loaded TensorRT has.
void captureMessages(void* plugin)
{
    static Foreign finder;
    MethodTable const& methods = *loadedNvInfer().methods;
    gLogger.methods[methods.log] = reinterpret_cast<void*>(&keepMessage);
    finder.methods[methods.findLogger] = reinterpret_cast<void*>(&findLogger);
    auto const setLoggerFinder = reinterpret_cast<void (*)(void*)>(dlsym(plugin, "setLoggerFinder"));
    setLoggerFinder(&finder);
}

// Operators, as the exporter writes them

Fields carafe()
{
    return {{{"kernel_size", 5}, {"group_size", 1}, {"scale_factor", 2}}, {}};
}
Fields adaptiveFilter()
{
    return {{{"kernel_size", 3}, {"group_size", 2}, {"scale_factor", 1}, {"mode", 2}},
        {0.5F, 1, 0.5F, 1, 2, 1, 0.5F, 1, 0.25F}};
}
Fields deformableAttention()
{
    return {{{"levels", 3}}, {}};
}
Fields localSimilarity()
{
    return {{{"kernel_size", 3}, {"dilation", 2}}, {}};
}
Fields offsetResample()
{
    return {{{"groups", 4}}, {}};
}
Fields queryArgmax()
{
    return {};
}
Fields resizeArgmax()
{
    return {{{"align_corners", 0}}, {}};
}

using Sizes = std::vector<std::vector<int64_t>>;

//! Sizes that fit together, of inputs and outputs, for a batch.
struct Example {
    Sizes inputs;
    Sizes outputs;
};

struct Operator {
    char const* name;
    Fields (*fields)();
    Example (*example)(int64_t batch);
    bool isLabelMap;
    bool isInRowsAlone; //!< without a channels-last format

    [[nodiscard]] int32_t inputs() const { return static_cast<int32_t>(example(1).inputs.size()); }
    [[nodiscard]] int32_t outputs() const { return static_cast<int32_t>(example(1).outputs.size()); }
    //! Whether the last input, which TensorRT may count or not, has its values carried as extents of outputs.
    [[nodiscard]] bool hasSizes() const { return outputs() > 1; }
};

Operator const kOperators[] = {
    {"Carafe", carafe, [](int64_t n) { return Example{{{n, 8, 4, 6}, {n, 25, 8, 12}}, {{n, 8, 8, 12}}}; }, false,
        false},
    {"AdaptiveFilter", adaptiveFilter, [](int64_t n) { return Example{{{n, 8, 4, 6}, {n, 18, 4, 6}}, {{n, 8, 4, 6}}}; },
        false, false},
    {"DeformableAttention", deformableAttention,
        [](int64_t n) {
            return Example{{{n, 7, 2, 4}, {n, 7, 2, 12}, {n, 7, 2, 6}}, {{n, 7, 2, 4}, {1}, {3}, {1}, {2}, {2}, {1}}};
        },
        false, true},
    {"LocalSimilarity", localSimilarity, [](int64_t n) { return Example{{{n, 8, 4, 6}}, {{n, 8, 4, 6}}}; }, false,
        false},
    {"OffsetResample", offsetResample, [](int64_t n) { return Example{{{n, 8, 4, 6}, {n, 32, 2, 3}}, {{n, 8, 4, 6}}}; },
        false, false},
    {"QueryArgmax", queryArgmax,
        [](int64_t n) { return Example{{{n, 3, 4, 6}, {n, 3, 5}}, {{n, 7, 9}, {16}, {24}, {15}, {20}}}; }, true, true},
    {"ResizeArgmax", resizeArgmax, [](int64_t n) { return Example{{{n, 8, 4, 6}}, {{n, 8, 12}, {8}, {12}}}; }, true,
        false}};
constexpr int32_t kOperatorCount = static_cast<int32_t>(sizeof(kOperators) / sizeof(kOperators[0]));

//! The fields as text, values included.
std::string textOf(PluginFieldCollection const& collection)
{
    std::string text;
    for (int32_t i = 0; i < collection.nbFields; ++i) {
        PluginField const& field = collection.fields[i];
        text += std::string{field.name} + ":" + std::to_string(static_cast<int32_t>(field.type));
        for (int32_t j = 0; j < field.length; ++j) {
            text +=
                ","
                + (field.type == PluginFieldType::kINT32 ? std::to_string(static_cast<int32_t const*>(field.data)[j])
                                                         : std::to_string(static_cast<float const*>(field.data)[j]));
        }
        text += ";";
    }
    return text;
}

// Symbolic dimensions: every expression keeps the text it was made of. TensorRT's own builder needs a GPU.

struct Expression final : IDimensionExpr {
    struct Implementation final : apiv::VDimensionExpr {
        bool isConstant() const override { return false; }
        int64_t getConstantValue() const override { return 0; }
        bool isSizeTensor() const noexcept override { return false; }
    };
    explicit Expression(std::string value) : text{std::move(value)} { mImpl = &implementation; }
    std::string text;
    Implementation implementation;
};

std::string textOf(IDimensionExpr const* expression)
{
    return expression == nullptr ? "null" : static_cast<Expression const*>(expression)->text;
}

struct Expressions final : IExprBuilder {
    struct Implementation final : apiv::VExprBuilder {
        IDimensionExpr const* constant(int64_t value) override { return keep(std::to_string(value)); }
        IDimensionExpr const* operation(
            DimensionOperation operation, IDimensionExpr const& first, IDimensionExpr const& second) override
        {
            char const* const sign = operation == DimensionOperation::kPROD ? "*" : "?";
            return keep(textOf(&first) + sign + textOf(&second));
        }
        IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) noexcept override
        {
            return nullptr;
        }
        IDimensionExpr const* keep(std::string text)
        {
            expressions.emplace_back(std::make_unique<Expression>(std::move(text)));
            return expressions.back().get();
        }
        std::deque<std::unique_ptr<Expression>> expressions;
    };
    Expressions() { mImpl = &implementation; }
    DimsExprs shape(std::vector<std::string> const& names)
    {
        DimsExprs dims{};
        dims.nbDims = static_cast<int32_t>(names.size());
        for (std::size_t i = 0; i < names.size(); ++i) {
            dims.d[i] = implementation.keep(names[i]);
        }
        return dims;
    }
    Implementation implementation;
};

std::string textOf(DimsExprs const& dims)
{
    std::string text;
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        text += (i == 0 ? "" : " ") + textOf(dims.d[i]);
    }
    return text;
}

// Checks

void opensThroughTheRegistry()
{
    open(gNvInfer);
    Registry registry;
    int32_t const before = registry.count();
    void* const handle = registry.loadLibrary(gPlugin);
    expect(handle != nullptr, "loadLibrary succeeds");
    expect(registry.count() == before + kOperatorCount, "a creator appears for each, none twice");
    for (Operator const& wanted : kOperators) {
        expect(registry.creator(wanted.name) != nullptr, std::string{wanted.name} + " is found");
    }
    expect(registry.loadLibrary(gPlugin) == nullptr, "a second loadLibrary says so");
    expect(registry.count() == before + kOperatorCount, "and changes nothing");
    registry.deregisterLibrary(handle);
    expect(registry.count() == before, "deregisterLibrary takes them away");
    expect(registry.loadLibrary(gPlugin) != nullptr, "and they can come back");
    expect(registry.count() == before + kOperatorCount, "all of them");
}

void registersItselfOnDlopen()
{
    open(gNvInfer);
    Registry registry;
    int32_t const before = registry.count();
    open(gPlugin);
    expect(registry.count() == before + kOperatorCount, "dlopen registers all creators");
    open(gPlugin);
    expect(registry.count() == before + kOperatorCount, "opening it again changes nothing");
    expect(registry.loadLibrary(gPlugin) != nullptr, "loadLibrary takes over from dlopen");
    expect(registry.count() == before + kOperatorCount, "without registering twice");
}

void waitsForTensorRT()
{
    void* const plugin = open(gPlugin);
    auto const init = reinterpret_cast<bool (*)()>(dlsym(plugin, "initFreqFusionPlugins"));
    expect(init != nullptr && !init(), "without TensorRT there is nothing to register with");
    open(gNvInfer);
    expect(init(), "with it there is");
    expect(init(), "and a second call finds it done");
    expect(Registry{}.creator("Carafe") != nullptr, "Carafe is found");
}

//! Run with LD_PRELOAD set to the plugin.
void isPreloaded()
{
    void* const program = dlopen(nullptr, RTLD_NOW);
    expect(dlsym(program, "getCreators") != nullptr, "the plugin is in the process");
    open(gNvInfer);
    auto const init = reinterpret_cast<bool (*)()>(dlsym(program, "initFreqFusionPlugins"));
    expect(init != nullptr && init() && Registry{}.creator("ResizeArgmax") != nullptr, "and its plugins are found");
}

//! Run with LD_PRELOAD set to the plugin, and libnvinfer where the loader searches.
void bringsTensorRT()
{
    expect(loadedNvInfer().major != 0, "the preloaded plugin loaded TensorRT before the program began");
    expect(loadedNvInfer().major != 0 && Registry{}.creator("Carafe") != nullptr, "and registered with it");
}

void hasAllCapabilities()
{
    for (Operator const& wanted : kOperators) {
        Plugin const plugin = make(wanted.name, wanted.fields());
        expect(plugin != nullptr, std::string{wanted.name} + " is created");
        if (plugin == nullptr) {
            continue;
        }
        for (auto const type :
            {PluginCapabilityType::kCORE, PluginCapabilityType::kBUILD, PluginCapabilityType::kRUNTIME}) {
            expect(plugin->getCapabilityInterface(type) != nullptr, "it has every capability");
        }
        expect(plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(7)) == nullptr, "and no unknown one");
        expect(std::strcmp(core(plugin).getPluginName(), wanted.name) == 0, "its name is the ONNX op type");
        expect(std::strcmp(core(plugin).getPluginVersion(), freqfusion::kPluginVersion) == 0, "version");
        expect(std::strcmp(core(plugin).getPluginNamespace(), freqfusion::kPluginNamespace) == 0, "namespace");
        expect(build(plugin).getNbOutputs() == wanted.outputs(), "outputs");
    }
}

void givesSymbolicShapes()
{
    Expressions builder;
    auto const shapes = [&](char const* name, Fields const& fields, std::vector<DimsExprs> const& inputs,
                            std::vector<DimsExprs> const& shapeInputs) -> std::string {
        Plugin const plugin = make(name, fields);
        std::vector<DimsExprs> outputs(static_cast<std::size_t>(build(plugin).getNbOutputs()));
        int32_t const status = build(plugin).getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()),
            shapeInputs.data(), static_cast<int32_t>(shapeInputs.size()), outputs.data(),
            static_cast<int32_t>(outputs.size()), builder);
        std::string text = status == 0 ? "" : "refused";
        for (std::size_t i = 0; status == 0 && i < outputs.size(); ++i) {
            text += (i == 0 ? "" : ", ") + textOf(outputs[i]);
        }
        return text;
    };
    auto const is = [](std::string const& actual, std::string const& wanted) {
        expect(actual == wanted, "shape is (" + actual + "), expected (" + wanted + ")");
    };
    DimsExprs const x = builder.shape({"N", "C", "H", "W"});
    DimsExprs const m = builder.shape({"N", "25", "h", "w"});
    DimsExprs const sizes = builder.shape({"sh", "sw", "oh", "ow"});
    is(shapes("Carafe", carafe(), {x, m}, {}), "N C H*2 W*2");
    is(shapes("AdaptiveFilter", adaptiveFilter(), {x, m}, {}), "N C H W");
    is(shapes("LocalSimilarity", localSimilarity(), {x}, {}), "N 8 H W");
    is(shapes("OffsetResample", offsetResample(), {x, m}, {}), "N C H W");
    is(shapes("ResizeArgmax", resizeArgmax(), {x}, {sizes}), "N oh ow, sh, sw");
    is(shapes("ResizeArgmax", resizeArgmax(), {x, sizes}, {sizes}), "N oh ow, sh, sw");
    DimsExprs const value = builder.shape({"N", "T", "M", "D"});
    DimsExprs const levels = builder.shape({"h0", "w0", "h1", "w1", "h2", "w2"});
    is(shapes("DeformableAttention", deformableAttention(), {value, m, m}, {levels}),
        "N T M D, h0, w0, h1, w1, h2, w2");
    is(shapes("DeformableAttention", deformableAttention(), {value, m, m, levels}, {levels}),
        "N T M D, h0, w0, h1, w1, h2, w2");
    DimsExprs const classes = builder.shape({"N", "Q", "C"});
    DimsExprs const cut = builder.shape({"ph", "pw", "kh", "kw", "oh", "ow"});
    is(shapes("QueryArgmax", queryArgmax(), {x, classes}, {cut}), "N oh ow, ph, pw, kh, kw");
    is(shapes("QueryArgmax", queryArgmax(), {x, classes, cut}, {cut}), "N oh ow, ph, pw, kh, kw");

    is(shapes("Carafe", carafe(), {x}, {}), "refused");
    is(shapes("Carafe", carafe(), {x, builder.shape({"N", "25"})}, {}), "refused");
    gLog.clear();
    is(shapes("ResizeArgmax", resizeArgmax(), {x, sizes}, {}), "refused");
    expect(gLog.size() == 1 && gLog[0].find("tensorrt_plugin_shape_input_indices=[1]") != std::string::npos,
        "the refusal names the missing attribute");
    is(shapes("ResizeArgmax", resizeArgmax(), {x}, {builder.shape({"oh", "ow"})}), "refused");
    gLog.clear();
    is(shapes("DeformableAttention", deformableAttention(), {value, m, m}, {sizes}), "refused");
    expect(gLog.size() == 1 && gLog[0].find("sizes has 4 values, expected 6") != std::string::npos,
        "the refusal counts the levels' sizes");
    is(shapes("DeformableAttention", deformableAttention(), {value, m}, {levels}), "refused");
    gLog.clear();
    is(shapes("DeformableAttention", deformableAttention(), {value, m, m}, {}), "refused");
    expect(gLog.size() == 1 && gLog[0].find("tensorrt_plugin_shape_input_indices=[3]") != std::string::npos,
        "and names the missing attribute");
    gLog.clear();
    is(shapes("QueryArgmax", queryArgmax(), {x, x}, {cut}), "refused");
    expect(gLog.size() == 1 && gLog[0].find("masks have 4 dimensions and classes 4") != std::string::npos,
        "the refusal says which dimensions there are");
    is(shapes("QueryArgmax", queryArgmax(), {x, classes}, {sizes}), "refused");
}

void givesOutputTypes()
{
    for (Operator const& wanted : kOperators) {
        Plugin const plugin = make(wanted.name, wanted.fields());
        for (DataType const type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
            std::vector<DataType> const inputs(static_cast<std::size_t>(wanted.inputs()), type);
            std::vector<DataType> outputs(static_cast<std::size_t>(wanted.outputs()), DataType::kBOOL);
            expect(
                build(plugin).getOutputDataTypes(outputs.data(), wanted.outputs(), inputs.data(), wanted.inputs()) == 0,
                "types");
            expect(outputs[0] == (wanted.isLabelMap ? DataType::kINT32 : type), "output type");
            expect(std::count(outputs.begin() + 1, outputs.end(), DataType::kINT32) == wanted.outputs() - 1,
                "outputs that carry sizes are int32");
        }
    }
}

void takesTheseFormats()
{
    std::vector<DataType> const types = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT8,
        DataType::kINT32, DataType::kINT64, DataType::kBOOL, DataType::kUINT8, DataType::kFP8};
    auto const isWanted = [](Operator const& wanted, DataType type, TensorFormat format) {
        bool const isHalf = type == DataType::kHALF || type == DataType::kBF16;
        return (format == TensorFormat::kLINEAR && (isHalf || type == DataType::kFLOAT))
               || (format == TensorFormat::kHWC8 && isHalf && !wanted.isInRowsAlone);
    };
    for (Operator const& wanted : kOperators) {
        Plugin const plugin = make(wanted.name, wanted.fields());
        int32_t const inputCount = wanted.inputs();
        int32_t const outputCount = wanted.outputs();
        auto const accepts = [&](std::vector<DynamicPluginTensorDesc> const& tensors, int32_t position,
                                 int32_t inputs) {
            return build(plugin).supportsFormatCombination(position, tensors.data(), inputs, outputCount);
        };
        int32_t accepted = 0;
        for (DataType const type : types) {
            for (int32_t format = 0; format < 13; ++format) {
                PluginTensorDesc const first = describe(type, static_cast<TensorFormat>(format));
                std::vector<DynamicPluginTensorDesc> tensors(static_cast<std::size_t>(inputCount + outputCount));
                tensors[0].desc = first;
                bool const isAccepted = accepts(tensors, 0, inputCount);
                expect(isAccepted == isWanted(wanted, type, first.format),
                    std::string{wanted.name} + ": type " + std::to_string(static_cast<int32_t>(type)) + " format "
                        + std::to_string(format));
                if (!isAccepted) {
                    continue;
                }
                ++accepted;
                for (int32_t position = 1; position < inputCount + outputCount; ++position) {
                    bool const isInteger = position > inputCount || (position == inputCount && wanted.isLabelMap);
                    for (DataType const otherType : types) {
                        for (int32_t otherFormat = 0; otherFormat < 13; ++otherFormat) {
                            PluginTensorDesc const other = describe(otherType, static_cast<TensorFormat>(otherFormat));
                            tensors[static_cast<std::size_t>(position)].desc = other;
                            bool const isRight =
                                isInteger ? otherType == DataType::kINT32 && other.format == TensorFormat::kLINEAR
                                          : otherType == type && other.format == first.format;
                            expect(accepts(tensors, position, inputCount) == isRight,
                                std::string{wanted.name} + ": position " + std::to_string(position));
                        }
                    }
                    tensors[static_cast<std::size_t>(position)].desc =
                        isInteger ? describe(DataType::kINT32, TensorFormat::kLINEAR) : first;
                }
            }
        }
        expect(accepted == (wanted.isInRowsAlone ? 3 : 5), "three types in rows, two channels-last");
        if (wanted.hasSizes()) { // a TensorRT that counts the shape input among the inputs
            std::vector<DynamicPluginTensorDesc> tensors(static_cast<std::size_t>(inputCount + 1 + outputCount));
            for (int32_t i = 0; i < inputCount; ++i) {
                tensors[static_cast<std::size_t>(i)].desc = describe(DataType::kHALF, TensorFormat::kLINEAR);
            }
            tensors[static_cast<std::size_t>(inputCount)].desc = describe(DataType::kINT64, TensorFormat::kLINEAR, {4});
            expect(accepts(tensors, inputCount, inputCount + 1), "sizes are int64");
            expect(!accepts(tensors, inputCount, inputCount), "outputs are not");
        }
    }
}

void keepsItsFields()
{
    for (Operator const& wanted : kOperators) {
        Plugin original = make(wanted.name, wanted.fields());
        std::string const fields = textOf(*runtime(original).getFieldsToSerialize());
        int32_t announced = Registry{}.creator(wanted.name)->getFieldNames()->nbFields;
        expect(runtime(original).getFieldsToSerialize()->nbFields == announced, "every announced field is serialised");
        for (int32_t i = 0; i < announced; ++i) {
            PluginField const& a = Registry{}.creator(wanted.name)->getFieldNames()->fields[i];
            PluginField const& b = runtime(original).getFieldsToSerialize()->fields[i];
            expect(std::strcmp(a.name, b.name) == 0 && a.type == b.type, "under the announced name and type");
        }

        IPluginCreatorV3One* const creator = Registry{}.creator(wanted.name);
        Plugin const again{
            creator->createPlugin("layer", runtime(original).getFieldsToSerialize(), TensorRTPhase::kRUNTIME)};
        expect(again != nullptr, "an engine's fields make the plugin again");
        Plugin const cloned{original->clone()};
        Plugin const attached{runtime(original).attachToContext(nullptr)};
        original.reset(); // what follows must not point into it
        for (Plugin const* copy : {&again, &cloned, &attached}) {
            std::string const actual = *copy == nullptr ? "none" : textOf(*runtime(*copy).getFieldsToSerialize());
            expect(actual == fields, "fields are " + actual + ", expected " + fields);
        }
    }
    expect(textOf(*runtime(make("AdaptiveFilter", adaptiveFilter())).getFieldsToSerialize())
               == "kernel_size:5,3;group_size:5,2;scale_factor:5,1;mode:5,2;padding:5,0;window:1,0.500000,1.000000,0."
                  "500000,1.000000,"
                  "2.000000,1.000000,0.500000,1.000000,0.250000;",
        "AdaptiveFilter's fields are what it was made of");
}

void hasATimingCacheId()
{
    auto const id = [](char const* name, Fields const& fields) {
        return std::string{build(make(name, fields)).getTimingCacheID()};
    };
    auto const with = [](Fields fields, char const* name, int32_t value) {
        fields.ints[name] = value;
        return fields;
    };
    expect(
        id("Carafe", carafe()) == "Carafe kernel_size=5 group_size=1 scale_factor=2 padding=0", id("Carafe", carafe()));
    expect(id("Carafe", carafe()) == id("Carafe", carafe()), "equal attributes share it");
    expect(id("Carafe", carafe()) != id("Carafe", with(carafe(), "kernel_size", 3)), "others do not");
    expect(id("Carafe", carafe()) == id("Carafe", with(carafe(), "padding", 0)), "zeros need not be said");
    expect(id("Carafe", carafe()) != id("Carafe", with(carafe(), "padding", 1)), "reflections are another layer");
    expect(id("AdaptiveFilter", adaptiveFilter()) != id("AdaptiveFilter", with(adaptiveFilter(), "mode", 1)), "mode");
    Fields window = adaptiveFilter();
    window.window[8] = 0.125F;
    expect(id("AdaptiveFilter", adaptiveFilter()) != id("AdaptiveFilter", window), "window");
    for (Operator const& wanted : kOperators) {
        Plugin const plugin = make(wanted.name, wanted.fields());
        expect(id(wanted.name, wanted.fields()) == build(plugin).getMetadataString(), "the inspector shows the same");
    }
}

void refusesNonsense()
{
    struct Case {
        char const* name;
        Fields fields;
        std::vector<std::string> words;
    };
    std::vector<Case> cases;
    auto const add = [&](char const* name, Fields const& good, std::vector<std::string> words,
                         std::function<void(Fields&)> const& spoil) {
        Fields fields = good;
        spoil(fields);
        cases.push_back({name, fields, std::move(words)});
    };
    auto const set = [](char const* name, int32_t value) {
        return [name, value](Fields& fields) { fields.ints[name] = value; };
    };
    add("Carafe", carafe(), {"kernel_size is 4", "an odd number from 1 to 31"}, set("kernel_size", 4));
    add("Carafe", carafe(), {"kernel_size is -3"}, set("kernel_size", -3));
    add("Carafe", carafe(), {"kernel_size is 2147483647", "from 1 to 31"}, set("kernel_size", INT32_MAX));
    add("Carafe", carafe(), {"group_size is 0", "from 1 to"}, set("group_size", 0));
    add("Carafe", carafe(), {"scale_factor is -2147483648"}, set("scale_factor", INT32_MIN));
    add("Carafe", carafe(), {"scale_factor is 1000000"}, set("scale_factor", 1000000));
    add("Carafe", carafe(), {"scale_factor is missing"}, [](Fields& fields) { fields.ints.erase("scale_factor"); });
    add("Carafe", carafe(), {"stride is unknown"}, set("stride", 1));
    add("Carafe", carafe(), {"padding is 2", "from 0 to 1"}, set("padding", 2));
    add("AdaptiveFilter", adaptiveFilter(), {"padding is -1", "from 0 to 1"}, set("padding", -1));
    add("Carafe", {}, {"kernel_size is missing"}, [](Fields&) {});
    add("AdaptiveFilter", adaptiveFilter(), {"mode is 3", "from 0 to 2"}, set("mode", 3));
    add("AdaptiveFilter", adaptiveFilter(), {"scale_factor is 2", "expected 1 for mode 2"}, set("scale_factor", 2));
    add("AdaptiveFilter", adaptiveFilter(), {"window has 8 values", "kernel_size squared, 9"},
        [](Fields& fields) { fields.window.pop_back(); });
    add("AdaptiveFilter", adaptiveFilter(), {"window is missing"}, [](Fields& fields) { fields.window.clear(); });
    add("AdaptiveFilter", adaptiveFilter(), {"window has 5000 values", "1 to 961"},
        [](Fields& fields) { fields.window.assign(5000, 1.0F); });
    add("AdaptiveFilter", adaptiveFilter(), {"window has nan at position 4"},
        [](Fields& fields) { fields.window[4] = std::nanf(""); });
    add("AdaptiveFilter", adaptiveFilter(), {"window has -1 at position 0"},
        [](Fields& fields) { fields.window[0] = -1.0F; });
    add("AdaptiveFilter", adaptiveFilter(), {"all zero"}, [](Fields& fields) { fields.window.assign(9, 0.0F); });
    add("DeformableAttention", deformableAttention(), {"levels is 0", "from 1 to 8"}, set("levels", 0));
    add("DeformableAttention", deformableAttention(), {"levels is 9"}, set("levels", 9));
    add("DeformableAttention", {}, {"levels is missing"}, [](Fields&) {});
    add("QueryArgmax", queryArgmax(), {"align_corners is unknown"}, set("align_corners", 0));
    add("LocalSimilarity", localSimilarity(), {"kernel_size is 1", "from 3 to"}, set("kernel_size", 1));
    add("LocalSimilarity", localSimilarity(), {"dilation is 0"}, set("dilation", 0));
    add("OffsetResample", offsetResample(), {"groups is -1"}, set("groups", -1));
    add("OffsetResample", offsetResample(), {"groups is 2000000000"}, set("groups", 2000000000));
    add("ResizeArgmax", resizeArgmax(), {"align_corners is 2", "from 0 to 1"}, set("align_corners", 2));
    auto const refused = [](IPluginV3* made, std::string const& name, std::vector<std::string> const& words) {
        Plugin const plugin{made};
        expect(plugin == nullptr, name + " is not created");
        expect(gLog.size() == 1, name + ": one sentence is logged");
        std::string const message = gLog.empty() ? "" : gLog.front();
        expect(message.rfind("freqfusion::" + name + " (layer 'layer'): ", 0) == 0,
            "it names operator and layer: " + message);
        for (std::string const& word : words) {
            expect(message.find(word) != std::string::npos, "'" + message + "' says '" + word + "'");
        }
        gLog.clear();
    };
    gLog.clear();
    for (Case& wrong : cases) {
        refused(make(wrong.name, wrong.fields).release(), wrong.name, wrong.words);
    }

    IPluginCreatorV3One* const creator = Registry{}.creator("Carafe");
    auto const refusedFields = [&](std::vector<PluginField> fields, std::vector<std::string> const& words) {
        PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
        refused(creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD), "Carafe", words);
    };
    int32_t const values[2] = {3, 3};
    int64_t const wide = 3;
    float const real = 3.0F;
    PluginField const kernelSize{"kernel_size", values, PluginFieldType::kINT32, 1};
    refusedFields({{"kernel_size", &wide, PluginFieldType::kINT64, 1}}, {"of type int64, expected int32"});
    refusedFields({{"kernel_size", &real, PluginFieldType::kFLOAT32, 1}}, {"of type float32, expected int32"});
    refusedFields({{"kernel_size", values, PluginFieldType::kINT32, 2}}, {"has 2 values, expected 1"});
    refusedFields({{"kernel_size", nullptr, PluginFieldType::kINT32, 1}}, {"null address"});
    refusedFields({{nullptr, values, PluginFieldType::kINT32, 1}}, {"without a name"});
    refusedFields({kernelSize, kernelSize}, {"given twice"});
    refused(creator->createPlugin("layer", nullptr, TensorRTPhase::kBUILD), "Carafe", {"got no attributes"});
    PluginFieldCollection const broken{3, nullptr};
    refused(creator->createPlugin("layer", &broken, TensorRTPhase::kBUILD), "Carafe", {"got no attributes"});
}

void checksSizes()
{
    auto const status = [](Plugin const& plugin, std::vector<std::vector<int64_t>> const& inputs,
                            std::vector<std::vector<int64_t>> const& outputs) {
        std::vector<PluginTensorDesc> in;
        std::vector<PluginTensorDesc> out;
        for (auto const& dims : inputs) {
            in.push_back(describe(DataType::kFLOAT, TensorFormat::kLINEAR, dims));
        }
        for (auto const& dims : outputs) {
            out.push_back(describe(DataType::kINT32, TensorFormat::kLINEAR, dims));
        }
        gLog.clear();
        int32_t const result = runtime(plugin).onShapeChange(
            in.data(), static_cast<int32_t>(in.size()), out.data(), static_cast<int32_t>(out.size()));
        expect(gLog.size() == (result == 0 ? 0U : 1U), "a refusal says why, once");
        return result;
    };
    int64_t const big = int64_t{1} << 33;
    Plugin const reassembly = make("Carafe", carafe());
    expect(status(reassembly, {{1, 6, 3, 5}, {1, 25, 6, 10}}, {{1, 6, 6, 10}}) == 0, "Carafe takes fitting sizes");
    Fields reflecting = carafe();
    reflecting.ints["padding"] = 1;
    Plugin const mirror = make("Carafe", reflecting);
    expect(status(mirror, {{1, 6, 3, 5}, {1, 25, 6, 10}}, {{1, 6, 6, 10}}) == 0, "and reflects what is large enough");
    expect(status(mirror, {{1, 6, 2, 5}, {1, 25, 4, 10}}, {{1, 6, 4, 10}}) != 0, "and nothing smaller");
    expect(status(reassembly, {{1, 6, 3, 5}, {1, 24, 6, 10}}, {{1, 6, 6, 10}}) != 0, "and no others");
    expect(
        status(reassembly, {{1, 6, big, 5}, {1, 25, 2 * big, 10}}, {{1, 6, 2 * big, 10}}) != 0, "nor beyond 32 bits");
    Plugin const filter = make("AdaptiveFilter", adaptiveFilter());
    expect(status(filter, {{2, 6, 3, 5}, {2, 18, 3, 5}}, {{2, 6, 3, 5}}) == 0, "AdaptiveFilter takes fitting sizes");
    expect(status(filter, {{2, 6, 3, 5}, {2, 9, 3, 5}}, {{2, 6, 3, 5}}) != 0, "and no others");
    Plugin const similarity = make("LocalSimilarity", localSimilarity());
    expect(status(similarity, {{1, 4, 7, 1}}, {{1, 8, 7, 1}}) == 0, "LocalSimilarity takes any picture");
    expect(status(similarity, {{1, 4, big, 1}}, {{1, 8, big, 1}}) != 0, "that can be counted");
    Plugin const resample = make("OffsetResample", offsetResample());
    expect(
        status(resample, {{1, 8, 6, 10}, {1, 32, 3, 5}}, {{1, 8, 6, 10}}) == 0, "OffsetResample takes fitting sizes");
    expect(status(resample, {{1, 8, 7, 10}, {1, 32, 3, 5}}, {{1, 8, 7, 10}}) != 0, "and no others");
    for (Operator const& wanted : kOperators) {
        Plugin const plugin = make(wanted.name, wanted.fields());
        Example const example = wanted.example(2);
        expect(status(plugin, example.inputs, example.outputs) == 0, std::string{wanted.name} + " takes its example");
    }
    Plugin const attention = make("DeformableAttention", deformableAttention());
    Sizes const levels = {{1, 7, 2, 4}, {1}, {3}, {1}, {2}, {2}, {1}};
    expect(status(attention, {{1, 7, 2, 4}, {1, 7, 2, 12}, {1, 7, 2, 5}}, levels) != 0, "levels divide the logits");
    expect(status(attention, {{1, 7, 2, 4}, {1, 7, 2, 6}, {1, 7, 2, 6}}, levels) != 0, "offsets are pairs");
    expect(status(attention, {{1, 8, 2, 4}, {1, 8, 2, 12}, {1, 8, 2, 6}}, levels) != 0, "and sizes are all tokens");
    expect(status(attention, {{1, 7, 2, 4}, {1, 7, 2, 12}, {1, 7, 2, 6}}, {{1, 7, 2, 4}, {0}, {3}, {1}, {2}, {2}, {1}})
               != 0,
        "no level is empty");
    Plugin const queries = make("QueryArgmax", queryArgmax());
    expect(status(queries, {{1, 3, 4, 6}, {1, 4, 5}}, {{1, 7, 9}, {16}, {24}, {15}, {20}}) != 0,
        "QueryArgmax wants classes of its queries");
    expect(status(queries, {{1, 3, 4, 6}, {1, 3, 5}}, {{1, 7, 9}, {16}, {24}, {17}, {20}}) != 0,
        "and no more kept than there is");
    Plugin const argmax = make("ResizeArgmax", resizeArgmax());
    expect(status(argmax, {{1, 150, 4, 6}}, {{1, 17, 19}, {16}, {24}}) == 0,
        "ResizeArgmax reads its step from the outputs");
    expect(status(argmax, {{1, 150, 4, 6}}, {{1, 17, 19}, {0}, {24}}) != 0, "and refuses one without pixels");
}

//! An empty batch is nothing to do; without a GPU a full one fails with a sentence, and the process lives.
void survivesWithoutAGpu()
{
    bool const hasGpu = access("/dev/nvidiactl", F_OK) == 0;
    for (Operator const& wanted : kOperators) {
        Plugin const plugin = make(wanted.name, wanted.fields());
        for (int64_t const batch : {0, 1}) {
            if (batch > 0 && hasGpu) {
                continue; // enqueue_check.cpp does that with memory
            }
            Example const example = wanted.example(batch);
            std::vector<PluginTensorDesc> inputs;
            std::vector<PluginTensorDesc> outputs;
            for (std::vector<int64_t> const& dims : example.inputs) {
                inputs.push_back(describe(DataType::kFLOAT, TensorFormat::kLINEAR, dims));
            }
            for (std::vector<int64_t> const& dims : example.outputs) {
                outputs.push_back(describe(DataType::kINT32, TensorFormat::kLINEAR, dims));
            }
            std::vector<void const*> const from(inputs.size(), nullptr);
            std::vector<void*> const to(outputs.size(), nullptr);
            gLog.clear();
            int32_t const status =
                runtime(plugin).enqueue(inputs.data(), outputs.data(), from.data(), to.data(), nullptr, nullptr);
            expect((status == 0) == (batch == 0), std::string{wanted.name} + ": enqueue of " + std::to_string(batch));
            expect(gLog.size() == static_cast<std::size_t>(batch), "one sentence for a failure");
            expect(gLog.empty() || gLog[0].find("the kernel did not start: ") != std::string::npos, "which says what");
        }
    }
}

void offersTactics()
{
    auto const offered = [](Plugin const& plugin, DataType type, TensorFormat format,
                             std::vector<int64_t> const& dims) {
        PluginTensorDesc const features = describe(type, format, dims);
        DynamicPluginTensorDesc const inputs[2] = {{features, features.dims, features.dims, features.dims}, {}};
        expect(build(plugin).configurePlugin(inputs, 2, nullptr, 0) == 0, "configurePlugin");
        std::vector<int32_t> tactics(static_cast<std::size_t>(build(plugin).getNbTactics()), -1);
        expect(build(plugin).getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())) == 0, "valid");
        std::string text;
        for (int32_t const tactic : tactics) {
            text += std::to_string(tactic);
            Plugin const cloned{plugin->clone()};
            expect(runtime(plugin).setTactic(tactic) == 0 && runtime(cloned).setTactic(tactic) == 0, "they can be set");
        }
        return text;
    };
    for (char const* const name : {"Carafe", "AdaptiveFilter"}) {
        bool const isCarafe = std::strcmp(name, "Carafe") == 0;
        Plugin const plugin = make(name, isCarafe ? carafe() : adaptiveFilter());
        expect(build(plugin).getNbTactics() == 0, "none before TensorRT has configured the plugin");
        std::vector<int64_t> const dims = {1, 64, 16, 24};
        std::string const rows = offered(plugin, DataType::kFLOAT, TensorFormat::kLINEAR, dims);
        auto const has = [](std::string const& tactics, char tactic) {
            return tactics.find(tactic) != std::string::npos;
        };
        expect(has(rows, '1') && !has(rows, '3'), std::string{name} + " in fp32: tensor cores not, but " + rows);
        std::string const half = offered(plugin, DataType::kHALF, TensorFormat::kHWC8, dims);
        expect(
            has(half, '1') && has(half, '3') == isCarafe, std::string{name} + " in fp16: them for S = 2, so " + half);
        std::string const odd = offered(plugin, DataType::kHALF, TensorFormat::kHWC8, {1, 6, 16, 24});
        expect(has(odd, '1'), "one does any size");
        for (std::string const& tactics : {rows, half, odd}) {
            expect(!has(tactics, '0') && std::is_sorted(tactics.begin(), tactics.end())
                       && std::adjacent_find(tactics.begin(), tactics.end()) == tactics.end(),
                "tactics are unique and not 0: " + tactics);
        }
        expect(
            offered(plugin, DataType::kFLOAT, TensorFormat::kLINEAR, {1, 64, -1, -1}).empty(), "unknown sizes: none");
        gLog.clear();
        expect(runtime(plugin).setTactic(0) == 0, "TensorRT's default is taken");
        expect(runtime(plugin).setTactic(9) != 0 && runtime(plugin).setTactic(-1) != 0, "unknown ones are not");
        expect(gLog.size() == 2 && gLog[0].find("kernel 9, expected 0 to 3") != std::string::npos, "and it says so");
    }
    for (Operator const& wanted : kOperators) {
        if (std::strcmp(wanted.name, "Carafe") != 0 && std::strcmp(wanted.name, "AdaptiveFilter") != 0) {
            expect(build(make(wanted.name, wanted.fields())).getNbTactics() == 0, "one kernel: no tactics");
        }
    }
}

//! The positions in the method tables, against classes the compiler lays out from this build's headers.
struct HeaderLogger final : ILogger {
    void log(Severity, AsciiChar const* message) noexcept override { last = message; }
    std::string last;
};
struct HeaderFinder final : ILoggerFinder {
    ILogger* findLogger() override { return logger; }
    ILogger* logger;
};
struct HeaderRegistry final : IPluginRegistry {
#if NV_TENSORRT_MAJOR < 11
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    bool registerCreator(IPluginCreator&, AsciiChar const*) noexcept override { return false; }
    IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
    IPluginCreator* getPluginCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return nullptr;
    }
    bool deregisterCreator(IPluginCreator const&) noexcept override { return false; }
#pragma GCC diagnostic pop
#endif
    void setErrorRecorder(IErrorRecorder*) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    PluginLibraryHandle loadLibrary(AsciiChar const*) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    bool registerCreator(IPluginCreatorInterface&, AsciiChar const* name) noexcept override
    {
        calls += std::string{"register "} + name + ";";
        return true;
    }
    IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override { return nullptr; }
    IPluginCreatorInterface* getCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return nullptr;
    }
    bool deregisterCreator(IPluginCreatorInterface const&) noexcept override
    {
        calls += "deregister;";
        return true;
    }
    IPluginResource* acquirePluginResource(AsciiChar const*, IPluginResource*) noexcept override { return nullptr; }
    int32_t releasePluginResource(AsciiChar const*) noexcept override { return 0; }
    IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept override { return nullptr; }
    std::string calls;
};

void knowsTheMethodTables()
{
    MethodTable const* const methods = methodTable(NV_TENSORRT_MAJOR);
    expect(methods != nullptr, "the headers' own version is known");
    expect(methodTable(9) == nullptr && methodTable(0) == nullptr && methodTable(99) == nullptr, "no other is");
    if (methods == nullptr) {
        return;
    }
    HeaderLogger logger;
    HeaderFinder finder;
    finder.logger = &logger;
    expect(callMethod<ILogger*>(static_cast<ILoggerFinder*>(&finder), methods->findLogger) == &logger, "findLogger");
    callMethod<void>(static_cast<ILogger*>(&logger), methods->log, 1, static_cast<char const*>("hello"));
    expect(logger.last == "hello", "log");
    HeaderRegistry registry;
    auto* const base = static_cast<IPluginRegistry*>(&registry);
    Foreign creator;
    void* const anything = &creator;
    expect(callMethod<bool>(base, methods->registerCreator, anything, static_cast<char const*>("here")), "register");
    expect(callMethod<bool>(base, methods->deregisterCreator, anything), "deregister");
    expect(registry.calls == "register here;deregister;", "the registry heard " + registry.calls);
}

std::map<std::string, void (*)()> const kLoadingChecks = {{"registry", opensThroughTheRegistry},
    {"dlopen", registersItselfOnDlopen}, {"late", waitsForTensorRT}, {"preload", isPreloaded},
    {"preload-first", bringsTensorRT}, {"method-tables", knowsTheMethodTables}};
std::map<std::string, void (*)()> const kPluginChecks = {{"capabilities", hasAllCapabilities},
    {"shapes", givesSymbolicShapes}, {"types", givesOutputTypes}, {"formats", takesTheseFormats},
    {"no-gpu", survivesWithoutAGpu}, {"fields", keepsItsFields}, {"timing-cache-id", hasATimingCacheId},
    {"nonsense", refusesNonsense}, {"sizes", checksSizes}, {"tactics", offersTactics}};

} // namespace

int main(int argc, char** argv)
{
    if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
        for (auto const* checks : {&kLoadingChecks, &kPluginChecks}) {
            for (auto const& check : *checks) {
                std::printf("%s\n", check.first.c_str());
            }
        }
        return 0;
    }
    if (argc != 4) {
        std::fprintf(stderr, "usage: freqfusion_tensorrt_probe PLUGIN LIBNVINFER CHECK | --list\n");
        return 2;
    }
    gPlugin = argv[1];
    gNvInfer = argv[2];
    if (auto const check = kLoadingChecks.find(argv[3]); check != kLoadingChecks.end()) {
        check->second();
    } else if (auto const plugin = kPluginChecks.find(argv[3]); plugin != kPluginChecks.end()) {
        open(gNvInfer);
        captureMessages(open(gPlugin)); // before the registry sets its own finder: the first one stays
        expect(Registry{}.loadLibrary(gPlugin) != nullptr, "the registry loads the plugin");
        plugin->second();
    } else {
        std::fprintf(stderr, "no check called %s\n", argv[3]);
        return 2;
    }
    return gFailures == 0 ? 0 : 1;
}
