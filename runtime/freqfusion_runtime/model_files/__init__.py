# SPDX-License-Identifier: Apache-2.0
"""What a model file says of itself: manifest, nodes, facts."""
