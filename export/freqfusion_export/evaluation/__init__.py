# SPDX-License-Identifier: Apache-2.0
"""The tasks of `freqfusion evaluate`.

Each is a module with ``add_arguments(parser)`` and ``evaluate(args) -> int``.
"""
