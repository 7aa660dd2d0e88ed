# SPDX-License-Identifier: Apache-2.0
"""FreqFusion operators as ONNX: nodes, and their bodies of standard operators."""
