# SPDX-License-Identifier: Apache-2.0
"""Labels very many pictures: resumable, on one machine's processes or on a Ray cluster."""
