# SPDX-License-Identifier: Apache-2.0
"""The server as a process: application, listeners, supervision."""
