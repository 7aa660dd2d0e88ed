# SPDX-License-Identifier: Apache-2.0
"""Makes engines of ONNX files, caches them, and holds them to what they should compute."""
