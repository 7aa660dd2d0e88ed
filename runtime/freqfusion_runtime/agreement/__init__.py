# SPDX-License-Identifier: Apache-2.0
"""How far two answers are apart, how far they may be, and what PyTorch answered."""
