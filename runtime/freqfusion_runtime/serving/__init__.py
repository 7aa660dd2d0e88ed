# SPDX-License-Identifier: Apache-2.0
"""Serves models over HTTP and gRPC, and writes what other servers need."""
