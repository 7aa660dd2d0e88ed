// SPDX-License-Identifier: Apache-2.0
//! The launchers as plain C functions, for the Python part of the GPU check: pointers and a stream in, a cudaError_t
//! out. Unlike torch/c_abi.h these take the padded channels-last layout of any channel count, and the reassembly's
//! kernel.
#include "kernels/adaptive_filter.h"
#include "kernels/carafe.h"
#include "kernels/deformable_attention.h"
#include "kernels/local_similarity.h"
#include "kernels/offset_resample.h"
#include "kernels/pyramid_roi_align.h"
#include "kernels/query_argmax.h"
#include "kernels/reassembly_tactic.h"
#include "kernels/resize_argmax.h"

#define FREQFUSION_CHECK_API extern "C" __attribute__((visibility("default")))

using namespace freqfusion;

namespace {

//! How a call's tensors are stored, and where it runs.
struct Form {
    int32_t dtype;
    int32_t layout;
    int32_t tactic;
    int32_t padding;
    cudaStream_t stream;
};

DType dtypeOf(Form const* form)
{
    return static_cast<DType>(form->dtype);
}

Layout layoutOf(Form const* form)
{
    return static_cast<Layout>(form->layout);
}

ReassemblyTactic tacticOf(Form const* form)
{
    return static_cast<ReassemblyTactic>(form->tactic);
}

} // namespace

FREQFUSION_CHECK_API char const* freqfusion_check_reason(int32_t status)
{
    return cudaGetErrorString(static_cast<cudaError_t>(status));
}

FREQFUSION_CHECK_API int32_t freqfusion_check_is_tactic(CarafeShape const* shape, Form const* form)
{
    return isTacticFor(*shape, dtypeOf(form), layoutOf(form), tacticOf(form)) ? 1 : 0;
}

FREQFUSION_CHECK_API int32_t freqfusion_check_carafe(
    CarafeShape const* shape, Form const* form, void const* features, void const* mask, void* output)
{
    return launchCarafe(*shape, dtypeOf(form), layoutOf(form), features, mask, output, tacticOf(form), form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_adaptive_filter(AdaptiveFilterShape const* shape, Form const* form,
    void const* features, void const* logits, float const* window, void* output)
{
    return launchAdaptiveFilter(
        *shape, dtypeOf(form), layoutOf(form), features, logits, window, output, tacticOf(form), form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_deformable_attention(DeformableAttentionShape const* shape,
    Form const* form, void const* value, void const* offsets, void const* logits, void* output)
{
    return launchDeformableAttention(*shape, dtypeOf(form), value, offsets, logits, output, form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_local_similarity(
    LocalSimilarityShape const* shape, Form const* form, void const* features, void* output)
{
    return launchLocalSimilarity(*shape, dtypeOf(form), layoutOf(form), features, output, form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_offset_resample(
    OffsetResampleShape const* shape, Form const* form, void const* features, void const* offsets, void* output)
{
    return launchOffsetResample(*shape, dtypeOf(form), layoutOf(form), features, offsets, output, form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_pyramid_roi_align(PyramidRoiAlignShape const* shape, Form const* form,
    void const* map0, void const* map1, void const* map2, void const* map3, float const* boxes, void* output)
{
    void const* const maps[kPyramidLevels] = {map0, map1, map2, map3};
    return launchPyramidRoiAlign(*shape, dtypeOf(form), maps, boxes, output, form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_query_argmax(
    QueryArgmaxShape const* shape, Form const* form, void const* masks, void const* classes, int32_t* labels)
{
    return launchQueryArgmax(*shape, dtypeOf(form), masks, classes, labels, form->stream);
}

FREQFUSION_CHECK_API int32_t freqfusion_check_resize_argmax(
    ResizeArgmaxShape const* shape, Form const* form, void const* scores, int32_t* labels)
{
    return launchResizeArgmax(*shape, dtypeOf(form), layoutOf(form), scores, labels, form->stream);
}
