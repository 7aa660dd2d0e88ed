# SPDX-License-Identifier: Apache-2.0
"""Which model computes which request when, within which memory."""
