# SPDX-License-Identifier: Apache-2.0
"""Times a network beside its rivals."""
