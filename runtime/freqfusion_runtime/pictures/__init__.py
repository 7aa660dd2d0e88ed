# SPDX-License-Identifier: Apache-2.0
"""From a picture file to a network's input."""
