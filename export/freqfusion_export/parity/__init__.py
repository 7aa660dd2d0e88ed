# SPDX-License-Identifier: Apache-2.0
"""Compares exported files with PyTorch."""
