# SPDX-License-Identifier: Apache-2.0
TESTS += test_docs.py test_daemons.py
EXTRA_DIST += test_docs.py test_daemons.py
