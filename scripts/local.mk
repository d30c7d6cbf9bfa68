# SPDX-License-Identifier: GPL-2.0-or-later
EXTRA_DIST += \
	LICENSE \
	autogen.sh \
	scripts/install-packages \
	scripts/packages \
	scripts/sdbox
