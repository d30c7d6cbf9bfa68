#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes ./configure from configure.ac and Makefile.am. Needed once after a
# clone; needs autoconf, automake and pkg-config.
set -eu
cd "$(dirname "$0")"
for tool in autoreconf automake pkg-config; do
	command -v "$tool" >/dev/null || {
		echo "autogen.sh: $tool is not installed (autoconf, automake, pkg-config are needed)" >&2
		exit 1
	}
done
exec autoreconf --install --force --warnings=all,no-obsolete "$@"
