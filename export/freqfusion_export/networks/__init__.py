# SPDX-License-Identifier: Apache-2.0
"""Kinds of network: what each looks like from outside, and its traced graph."""
