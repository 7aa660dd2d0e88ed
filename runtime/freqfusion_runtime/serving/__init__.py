# SPDX-License-Identifier: Apache-2.0
"""Serves models over HTTP and gRPC: the Open Inference Protocol, a simple picture route and a page to look at."""
