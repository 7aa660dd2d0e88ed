# SPDX-License-Identifier: Apache-2.0
"""Runs TensorRT and TensorRT-RTX engines: CUDA, streams, profiles, records."""
