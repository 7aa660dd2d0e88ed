# SPDX-License-Identifier: Apache-2.0
"""Says at once, in one sentence, when the Python at hand cannot be used for `make setup`. Runs on any Python 3.

The packages themselves run from 3.10 on; some of the versions pinned in constraints.txt do not.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("make setup needs Python 3.11 or later, this is %d.%d. Try make PYTHON=python3.11" % sys.version_info[:2])
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("this Python cannot make virtual environments. On Debian: apt-get install python3-venv")
