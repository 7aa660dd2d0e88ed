# SPDX-License-Identifier: Apache-2.0
"""How good answers are: data sets with known answers, scores with their uncertainty."""
