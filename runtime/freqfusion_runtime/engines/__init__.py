# SPDX-License-Identifier: Apache-2.0
"""TensorRT and TensorRT-RTX: building engines from exported files, keeping them, proving them and running them."""
