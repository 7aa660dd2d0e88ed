// SPDX-License-Identifier: Apache-2.0
//! An operator's attributes as TensorRT's plugin fields: read, checked, written back and described from one table.
#pragma once

#include "report.h"

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>

namespace freqfusion::tensorrt {

//! One whole-number attribute: where it lies and what it may be.
struct IntField {
    char const* name;
    int32_t* value;
    int32_t low;
    int32_t high;
    bool isOdd;              //!< only odd values are allowed
    bool isOptional = false; //!< files from before it was added go without and keep the value it has
};

//! One list of numbers: at most `capacity` of them lie at `values`, `count` in use.
struct FloatsField {
    char const* name;
    float* values;
    int32_t* count;
    int32_t capacity;
};

//! All attributes of one operator, in the order of its ONNX definition. Points into the attributes it was made from.
struct FieldTable {
    static constexpr int32_t kMaxInts = 5;
    static constexpr int32_t kMaxFields = kMaxInts + 1;

    std::array<IntField, kMaxInts> ints;
    int32_t intCount;
    FloatsField floats; //!< name is nullptr if the operator has none
};

//! The table's fields as TensorRT sees them, pointing at the attributes. Returns how many it wrote.
int32_t writeFields(
    FieldTable const& table, std::array<nvinfer1::PluginField, FieldTable::kMaxFields>& fields) noexcept;

//! Fills the attributes behind `table`. Every field that is not optional must be there, each once, of its type and
//! within its range, and no other; else reports what was found and what was expected, and returns false.
[[nodiscard]] bool readFields(
    FieldTable const& table, nvinfer1::PluginFieldCollection const* collection, Subject const& subject) noexcept;

//! Writes "Carafe kernel_size=5 group_size=1 scale_factor=2" to `text`. A list is given by its length and a hash of its
//! bits, so that equal text means equal attributes.
void describe(char const* operatorName, FieldTable const& table, char* text, std::size_t capacity) noexcept;

} // namespace freqfusion::tensorrt
