// SPDX-License-Identifier: Apache-2.0
//! The operators as `CustomOperator` wants them: attributes, sizes, call. What they compute is in kernels/*.h.
#pragma once

#include "custom_operator.h"

#include "kernels/adaptive_filter.h"
#include "kernels/convolve3x3.h"
#include "kernels/deformable_attention.h"
#include "kernels/prepare_image.h"
#include "kernels/pyramid_roi_align.h"

#include <vector>

namespace freqfusion::ort {

class Carafe {
  public:
    static constexpr char const* kName = "Carafe";
    static constexpr char const* kAttributes = "group_size kernel_size padding scale_factor";
    static constexpr size_t kInputs = 2;
    static constexpr Elements kElements = Elements::kSame;

    explicit Carafe(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node);

  private:
    CarafeShape mAttributes; //!< sizes unset
};

class AdaptiveFilter {
  public:
    static constexpr char const* kName = "AdaptiveFilter";
    static constexpr char const* kAttributes = "group_size kernel_size mode padding scale_factor window";
    static constexpr size_t kInputs = 2;
    static constexpr Elements kElements = Elements::kSame;

    explicit AdaptiveFilter(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node);

  private:
    AdaptiveFilterShape mAttributes; //!< sizes unset
    std::vector<float> mWindow;
};

class DeformableAttention {
  public:
    static constexpr char const* kName = "DeformableAttention";
    static constexpr char const* kAttributes = "levels";
    static constexpr size_t kInputs = 4;
    static constexpr Elements kElements = Elements::kSized;

    explicit DeformableAttention(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& value, Ort::ShapeInferContext& node);

  private:
    int32_t mLevels;
};

class LocalSimilarity {
  public:
    static constexpr char const* kName = "LocalSimilarity";
    static constexpr char const* kAttributes = "dilation kernel_size";
    static constexpr size_t kInputs = 1;
    static constexpr Elements kElements = Elements::kSame;

    explicit LocalSimilarity(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node);

  private:
    int32_t mKernelSize;
    int32_t mDilation;
};

class OffsetResample {
  public:
    static constexpr char const* kName = "OffsetResample";
    static constexpr char const* kAttributes = "groups";
    static constexpr size_t kInputs = 2;
    static constexpr Elements kElements = Elements::kSame;

    explicit OffsetResample(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node);

  private:
    int32_t mGroups;
};

class ResizeArgmax {
  public:
    static constexpr char const* kName = "ResizeArgmax";
    static constexpr char const* kAttributes = "align_corners";
    static constexpr size_t kInputs = 2;
    static constexpr Elements kElements = Elements::kLabels;

    explicit ResizeArgmax(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& scores, Ort::ShapeInferContext& node);

  private:
    bool mAlignCorners;
};

class QueryArgmax {
  public:
    static constexpr char const* kName = "QueryArgmax";
    static constexpr char const* kAttributes = "";
    static constexpr size_t kInputs = 3;
    static constexpr Elements kElements = Elements::kLabels;

    explicit QueryArgmax(Attributes const&) {}
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& masks, Ort::ShapeInferContext& node);
};

class PrepareImage {
  public:
    static constexpr char const* kName = "PrepareImage";
    static constexpr char const* kAttributes =
        "exact_height exact_width inverse_std long_side mean resize_as_pillow reverse_channels short_side size_divisor";
    static constexpr size_t kInputs = 1;
    static constexpr Elements kElements = Elements::kPictures;

    explicit PrepareImage(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& pictures, NodeBeforeRun& node);

  private:
    PrepareImageShape mAttributes; //!< sizes unset
    LevelScale mScale;
};

//! No operator of files: the runtime puts it in place of convolutions when it opens one.
class Convolve3x3 {
  public:
    static constexpr char const* kName = "Convolve3x3";
    static constexpr char const* kAttributes = "relu";
    static constexpr size_t kInputs = 3;
    static constexpr Elements kElements = Elements::kBiased;

    explicit Convolve3x3(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& input, Ort::ShapeInferContext& node);

  private:
    Convolve3x3Shape mAttributes; //!< sizes of the input unset
    std::vector<float> mWeights;  //!< packed
    std::vector<float> mBias;
};

class PyramidRoiAlign {
  public:
    static constexpr char const* kName = "PyramidRoiAlign";
    static constexpr char const* kAttributes = "finest_scale finest_stride output_size";
    static constexpr size_t kInputs = kPyramidLevels + 1;
    static constexpr Elements kElements = Elements::kBoxes;

    explicit PyramidRoiAlign(Attributes const& attributes);
    void run(Call const& call) const;
    static std::vector<Extent> inferSize(std::vector<Extent> const& finest, Ort::ShapeInferContext& node);

  private:
    PyramidRoiAlignShape mAttributes; //!< sizes unset
};

} // namespace freqfusion::ort
