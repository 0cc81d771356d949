# SPDX-License-Identifier: Apache-2.0
"""What deploy/lab is made of: instance (places, names), network, host (boot and supervision), disk, pairfile."""
