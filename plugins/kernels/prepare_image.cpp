// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"
#include "sizes.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace freqfusion {

char const* whyNotRunnable(PrepareImageShape const& shape) noexcept
{
    if (shape.longSide < 1 || shape.shortSide < 1 || shape.sizeDivisor < 1) {
        return "long_side, short_side and size_divisor must be positive";
    }
    if ((shape.exactHeight > 0) != (shape.exactWidth > 0) || shape.exactHeight < 0 || shape.exactWidth < 0) {
        return "exact_height and exact_width must both be positive, or both 0 for a kept ratio";
    }
    if (shape.resizesAsPillow && shape.sizeDivisor != 1) {
        return "size_divisor must be 1 where resize_as_pillow is, since there is no second resize";
    }
    if (shape.batch < 0) {
        return "the batch must not be negative";
    }
    if (shape.height < 1 || shape.width < 1) {
        return "the pictures must have at least one row and column";
    }
    if (!isAddressable({shape.batch, shape.height, shape.width, 3})) {
        return kNotAddressable;
    }
    PrepareImageSizes const sizes = sizesOf(shape);
    if (!isAddressable({sizes.scaledHeight, sizes.scaledWidth, 3})
        || !isAddressable({shape.batch, 3, sizes.outHeight, sizes.outWidth})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* whyNotRunnable(LevelScale const& scale) noexcept
{
    auto const isFinite = [](float value) { return std::isfinite(value); };
    if (!std::all_of(scale.mean, scale.mean + 3, isFinite)) {
        return "mean must hold finite numbers";
    }
    if (!std::all_of(scale.inverseStd, scale.inverseStd + 3, isFinite)
        || *std::min_element(scale.inverseStd, scale.inverseStd + 3) <= 0) {
        return "inverse_std must hold finite positive numbers";
    }
    return nullptr;
}

namespace {

//! A size of a kept ratio in detectron2's doubles; its short side meets the limit first.
std::pair<int64_t, int64_t> sizeAsDetectron2(PrepareImageShape const& shape) noexcept
{
    double const factor = shape.shortSide / static_cast<double>(std::min(shape.height, shape.width));
    double height = shape.height < shape.width ? shape.shortSide : factor * shape.height;
    double width = shape.height < shape.width ? factor * shape.width : shape.shortSide;
    if (std::max(height, width) > shape.longSide) {
        double const back = shape.longSide / std::max(height, width);
        height *= back;
        width *= back;
    }
    auto const rounded = [](double side) { return std::max<int64_t>(1, static_cast<int64_t>(side + 0.5)); };
    return {rounded(height), rounded(width)};
}

//! The same in mmcv's doubles.
std::pair<int64_t, int64_t> sizeAsMmcv(PrepareImageShape const& shape) noexcept
{
    double const longer = std::max(shape.height, shape.width);
    double const shorter = std::min(shape.height, shape.width);
    double const factor = std::min(shape.longSide / longer, shape.shortSide / shorter);
    auto const scaled = [&](int32_t extent) {
        return std::max<int64_t>(1, static_cast<int64_t>(extent * factor + 0.5));
    };
    return {scaled(shape.height), scaled(shape.width)};
}

} // namespace

PrepareImageSizes sizesOf(PrepareImageShape const& shape) noexcept
{
    // In the official doubles, whose rounding decides where a side comes to a half exactly; but never to nothing.
    auto [height, width] = shape.resizesAsPillow ? sizeAsDetectron2(shape) : sizeAsMmcv(shape);
    if (shape.exactHeight > 0) {
        height = shape.exactHeight;
        width = shape.exactWidth;
    }
    int64_t const divisor = shape.sizeDivisor;
    return {height, width, (height + divisor - 1) / divisor * divisor, (width + divisor - 1) / divisor * divisor};
}

char const* runPrepareImageOnHost(PrepareImageShape const& shape, LevelScale const& scale, uint8_t const* pictures,
    float* images, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (char const* const reason = whyNotRunnable(scale)) {
        return reason;
    }
    if (shape.batch > 0) {
        LevelScale byPicture = scale; // in the order of the pictures' channels
        if (shape.reversesChannels) {
            std::swap(byPicture.mean[0], byPicture.mean[2]);
            std::swap(byPicture.inverseStd[0], byPicture.inverseStd[2]);
        }
        if (!shape.resizesAsPillow) {
            hostKernels().prepareImage(shape, sizesOf(shape), byPicture, pictures, images, pool);
        } else if (!hostKernels().prepareImageAsPillow(shape, sizesOf(shape), byPicture, pictures, images, pool)) {
            return "there is no memory for the sums of a tile";
        }
    }
    return nullptr;
}

} // namespace freqfusion
