# SPDX-License-Identifier: Apache-2.0
"""Says at once, in one sentence, when the Python at hand cannot be used. Runs on any Python 3."""

import sys

if sys.version_info < (3, 10):
    sys.exit(
        "freqfusion-deploy needs Python 3.10 or later, this is %d.%d. Try make PYTHON=python3.11" % sys.version_info[:2]
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("this Python cannot make virtual environments. On Debian: apt-get install python3-venv")
