# SPDX-License-Identifier: Apache-2.0
"""The commands that need PyTorch or onnx, one module each."""
