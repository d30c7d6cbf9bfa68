#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# No file of the project names a place that exists on one developer's machine
# only, and every source says its licence.
set -u
cd "${srcdir:-$(dirname "$0")/..}" || exit 99

if [ -e .git ] && command -v git >/dev/null; then
	files=$(git -c safe.directory='*' ls-files)
else
	files=$(find agent backends bench common contrib ctl docs fuzz man preload scripts \
		tests uapi Makefile.am configure.ac autogen.sh quickstart run-tests README.md \
		-type f 2>/dev/null)
fi
files=$(grep -vE '^(LICENSE|tests/check-paths\.sh)$' <<<"$files" | while read -r f; do
	[ ! -f "$f" ] || echo "$f"
done)
wrong=0
# homes, checkouts and scratch places of a machine; plain /tmp is no such place
places='(^|[^A-Za-z0-9_.$}/-])/(home|work|workspace|Users|root|mnt|media)/[A-Za-z0-9_.]'
if xargs -d '\n' grep -nIE -e "$places" <<<"$files"; then
	echo "check-paths: a place of one machine is named above"
	wrong=1
fi
without=$(grep -E '\.([chS]|sh|py|mk)$|(^|/)(Makefile\.am|configure\.ac|quickstart|run-tests)$' <<<"$files" |
	xargs -d '\n' awk '
		FNR == 1 { if (!has && name) print name; name = FILENAME; has = 0 }
		FNR <= 3 && /SPDX-License-Identifier: GPL-2.0-or-later/ { has = 1 }
		END { if (!has && name) print name }')
if [ -n "$without" ]; then
	echo "check-paths: no SPDX-License-Identifier in the first three lines of"
	echo "$without"
	wrong=1
fi
echo "check-paths: $(wc -l <<<"$files") files"
exit $wrong
