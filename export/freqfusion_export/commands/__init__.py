# SPDX-License-Identifier: Apache-2.0
"""Subcommands that need PyTorch or onnx; each imports them only when it runs."""
