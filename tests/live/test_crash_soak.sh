#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A few kills of what `make crash-soak' does with a thousand.
exec "$BASH" "$(dirname "$0")/crash-soak.sh" 24
