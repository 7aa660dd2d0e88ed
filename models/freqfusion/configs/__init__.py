# SPDX-License-Identifier: Apache-2.0
"""What a training config says about testing: read as data, never executed."""
