# SPDX-License-Identifier: Apache-2.0
"""What computes a network, and ONNX Runtime as one such engine."""
