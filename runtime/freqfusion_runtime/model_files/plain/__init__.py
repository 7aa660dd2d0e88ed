# SPDX-License-Identifier: Apache-2.0
"""Files without functions, domains of ours, or anything else that strict readers of ONNX trip over; needs onnx."""
