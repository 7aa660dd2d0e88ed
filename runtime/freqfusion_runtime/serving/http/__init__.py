# SPDX-License-Identifier: Apache-2.0
"""Pictures over HTTP: requests, answers, routes."""
