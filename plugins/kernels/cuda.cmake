# SPDX-License-Identifier: Apache-2.0
# The CUDA half of freqfusion_kernels. -DCMAKE_CUDA_ARCHITECTURES=90-real builds for one GPU only.
target_sources(freqfusion_kernels PRIVATE
  carafe_cuda.cu adaptive_filter_cuda.cu deformable_attention_cuda.cu local_similarity_cuda.cu offset_resample_cuda.cu
  resize_argmax_cuda.cu pyramid_roi_align_cuda.cu query_argmax_cuda.cu)
target_compile_definitions(freqfusion_kernels PUBLIC FREQFUSION_CUDA=1)
target_link_libraries(freqfusion_kernels PUBLIC CUDA::cudart_static)
# --relocatable-device-code stays off: every kernel lies in the file that launches it, so that no device link is needed.
target_compile_options(freqfusion_kernels PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow,-Werror;--Werror=all-warnings>")
set_target_properties(freqfusion_kernels PROPERTIES CUDA_VISIBILITY_PRESET hidden)
