# SPDX-License-Identifier: Apache-2.0
"""How good label maps are: data sets with known answers, and scores with their uncertainty."""
