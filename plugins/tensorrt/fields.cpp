// SPDX-License-Identifier: Apache-2.0
#include "fields.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace freqfusion::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr char const* kRemedy = "Correct the node's attributes or export the model again";

char const* nameOf(PluginFieldType type) noexcept
{
    switch (type) {
    case PluginFieldType::kFLOAT32:
        return "float32";
    case PluginFieldType::kINT32:
        return "int32";
    case PluginFieldType::kFLOAT16:
        return "float16";
    case PluginFieldType::kFLOAT64:
        return "float64";
    case PluginFieldType::kINT8:
        return "int8";
    case PluginFieldType::kINT16:
        return "int16";
    case PluginFieldType::kINT64:
        return "int64";
    case PluginFieldType::kCHAR:
        return "text";
    default:
        return "another type";
    }
}

//! The field called `name`, or nullptr after a report.
PluginField const* find(
    nvinfer1::PluginFieldCollection const& collection, char const* name, PluginFieldType type, Subject const& subject)
{
    PluginField const* found = nullptr;
    for (int32_t i = 0; i < collection.nbFields; ++i) {
        PluginField const& field = collection.fields[i];
        if (field.name == nullptr || std::strcmp(field.name, name) != 0) {
            continue;
        }
        if (found != nullptr) {
            report(subject, "attribute %s is given twice, expected once. %s.", name, kRemedy);
            return nullptr;
        }
        found = &field;
    }
    if (found == nullptr) {
        report(subject, "attribute %s is missing, expected %s. %s.", name, nameOf(type), kRemedy);
        return nullptr;
    }
    if (found->type != type) {
        report(
            subject, "attribute %s is of type %s, expected %s. %s.", name, nameOf(found->type), nameOf(type), kRemedy);
        return nullptr;
    }
    if (found->length < 0 || (found->data == nullptr && found->length > 0)) {
        report(
            subject, "attribute %s has %d values at a null address, expected data. %s.", name, found->length, kRemedy);
        return nullptr;
    }
    return found;
}

bool isGiven(nvinfer1::PluginFieldCollection const& collection, char const* name) noexcept
{
    return std::any_of(collection.fields, collection.fields + collection.nbFields,
        [name](PluginField const& field) { return std::strcmp(field.name, name) == 0; });
}

bool readInt(IntField const& wanted, nvinfer1::PluginFieldCollection const& collection, Subject const& subject)
{
    PluginField const* const field = find(collection, wanted.name, PluginFieldType::kINT32, subject);
    if (field == nullptr) {
        return false;
    }
    if (field->length != 1) {
        report(subject, "attribute %s has %d values, expected 1. %s.", wanted.name, field->length, kRemedy);
        return false;
    }
    int32_t value = 0;
    std::memcpy(&value, field->data, sizeof value);
    if (value < wanted.low || value > wanted.high || (wanted.isOdd && value % 2 == 0)) {
        report(subject, "attribute %s is %d, expected %s from %d to %d. %s.", wanted.name, value,
            wanted.isOdd ? "an odd number" : "a number", wanted.low, wanted.high, kRemedy);
        return false;
    }
    *wanted.value = value;
    return true;
}

bool readFloats(FloatsField const& wanted, nvinfer1::PluginFieldCollection const& collection, Subject const& subject)
{
    PluginField const* const field = find(collection, wanted.name, PluginFieldType::kFLOAT32, subject);
    if (field == nullptr) {
        return false;
    }
    if (field->length < 1 || field->length > wanted.capacity) {
        report(subject, "attribute %s has %d values, expected 1 to %d. %s.", wanted.name, field->length,
            wanted.capacity, kRemedy);
        return false;
    }
    std::memcpy(wanted.values, field->data, sizeof(float) * static_cast<std::size_t>(field->length));
    *wanted.count = field->length;
    for (int32_t i = 0; i < *wanted.count; ++i) {
        if (!std::isfinite(wanted.values[i]) || wanted.values[i] < 0.0F) {
            report(subject, "attribute %s has %g at position %d, expected a finite number, not negative. %s.",
                wanted.name, static_cast<double>(wanted.values[i]), i, kRemedy);
            return false;
        }
    }
    return true;
}

bool isKnown(FieldTable const& table, char const* name) noexcept
{
    auto const ints = table.ints.begin();
    return std::any_of(ints, ints + table.intCount, [name](IntField const& field) {
        return std::strcmp(field.name, name) == 0;
    }) || (table.floats.name != nullptr && std::strcmp(table.floats.name, name) == 0);
}

uint64_t hashOf(float const* values, int32_t count) noexcept
{
    uint64_t hash = 14695981039346656037ULL; // FNV-1a, 64 bits
    auto const* const bytes = reinterpret_cast<unsigned char const*>(values);
    for (std::size_t i = 0; i < sizeof(float) * static_cast<std::size_t>(count); ++i) {
        hash = (hash ^ bytes[i]) * 1099511628211ULL;
    }
    return hash;
}

} // namespace

int32_t writeFields(FieldTable const& table, std::array<PluginField, FieldTable::kMaxFields>& fields) noexcept
{
    int32_t count = 0;
    for (; count < table.intCount; ++count) {
        IntField const& field = table.ints[static_cast<std::size_t>(count)];
        fields[static_cast<std::size_t>(count)] = PluginField{field.name, field.value, PluginFieldType::kINT32, 1};
    }
    if (table.floats.name != nullptr) {
        fields[static_cast<std::size_t>(count++)] =
            PluginField{table.floats.name, table.floats.values, PluginFieldType::kFLOAT32, *table.floats.count};
    }
    return count;
}

bool readFields(
    FieldTable const& table, nvinfer1::PluginFieldCollection const* collection, Subject const& subject) noexcept
{
    if (collection == nullptr || collection->nbFields < 0
        || (collection->nbFields > 0 && collection->fields == nullptr)) {
        report(subject, "got no attributes, expected %d. %s.", table.intCount + (table.floats.name != nullptr ? 1 : 0),
            kRemedy);
        return false;
    }
    for (int32_t i = 0; i < collection->nbFields; ++i) {
        char const* const name = collection->fields[i].name;
        if (name == nullptr || !isKnown(table, name)) {
            report(subject,
                "attribute %s is unknown to version %s of the operator. Use exporter and plugin of one release.",
                name == nullptr ? "without a name" : name, kPluginVersion);
            return false;
        }
    }
    for (int32_t i = 0; i < table.intCount; ++i) {
        IntField const& field = table.ints[static_cast<std::size_t>(i)];
        if (field.isOptional && !isGiven(*collection, field.name)) {
            continue;
        }
        if (!readInt(field, *collection, subject)) {
            return false;
        }
    }
    return table.floats.name == nullptr || readFloats(table.floats, *collection, subject);
}

void describe(char const* operatorName, FieldTable const& table, char* text, std::size_t capacity) noexcept
{
    std::size_t used = 0;
    auto const append = [&](auto... arguments) {
        int const length = std::snprintf(text + used, capacity - used, arguments...);
        used = std::min(used + static_cast<std::size_t>(std::max(length, 0)), capacity - 1);
    };
    append("%s", operatorName);
    for (int32_t i = 0; i < table.intCount; ++i) {
        IntField const& field = table.ints[static_cast<std::size_t>(i)];
        append(" %s=%d", field.name, *field.value);
    }
    if (table.floats.name != nullptr) {
        append(" %s=%dx%016llx", table.floats.name, *table.floats.count,
            static_cast<unsigned long long>(hashOf(table.floats.values, *table.floats.count)));
    }
}

} // namespace freqfusion::tensorrt
