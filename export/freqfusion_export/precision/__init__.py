# SPDX-License-Identifier: Apache-2.0
"""Precision written into the file: which nodes compute in a half type, which stay fp32, and how that is judged."""
