# SPDX-License-Identifier: Apache-2.0
"""What an operator sets and sees: settings, errors, logs, metrics, addresses."""
