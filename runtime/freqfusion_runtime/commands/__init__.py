# SPDX-License-Identifier: Apache-2.0
"""The command line, and the commands that need no PyTorch, one module each."""
