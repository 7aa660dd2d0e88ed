# SPDX-License-Identifier: Apache-2.0
"""How files with weights are read: by content, running nothing, and which entries count."""
