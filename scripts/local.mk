# SPDX-License-Identifier: GPL-2.0-or-later
EXTRA_DIST += \
	fuzz/README \
	tests/flow/README \
	tests/inject/README \
	LICENSE \
	README.md \
	autogen.sh \
	docs/ARCHITECTURE.md \
	docs/COMPATIBILITY.md \
	docs/INVARIANTS.md \
	docs/PERFORMANCE.md \
	docs/STORE-FORMAT.md \
	quickstart \
	run-tests \
	scripts/install-packages \
	scripts/packages \
	scripts/sdbox \
	scripts/session-records.py
