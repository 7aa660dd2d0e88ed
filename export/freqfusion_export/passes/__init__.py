# SPDX-License-Identifier: Apache-2.0
"""Graph passes, one per file; each does one thing, and a second run changes nothing.

They use onnx-ir rather than onnx-graphsurgeon: graphsurgeon 0.6 drops the references from a node's attributes to those
of its function (``kernel_size=@kernel_size`` comes back empty), so a function body does not survive import and export.
"""
