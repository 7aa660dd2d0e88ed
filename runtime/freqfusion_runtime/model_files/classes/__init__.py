# SPDX-License-Identifier: Apache-2.0
"""Names and colours of classes: ADE20K, COCO, a checkpoint's own."""
