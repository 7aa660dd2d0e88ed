# SPDX-License-Identifier: Apache-2.0
"""What was found in a picture: as arrays, as files, as drawings."""
