# SPDX-License-Identifier: Apache-2.0
"""Checks a file that was just written, before it is kept."""
