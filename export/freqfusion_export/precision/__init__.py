# SPDX-License-Identifier: Apache-2.0
"""Types written into the file: what computes in fewer bits, what stays fp32, and how that is judged."""
