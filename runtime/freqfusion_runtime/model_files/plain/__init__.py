# SPDX-License-Identifier: Apache-2.0
"""Models of standard operators alone, for readers that know no functions; needs onnx."""
