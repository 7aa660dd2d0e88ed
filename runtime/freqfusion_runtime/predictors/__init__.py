# SPDX-License-Identifier: Apache-2.0
"""Pictures in, results out: opens model files and wraps them by task."""
