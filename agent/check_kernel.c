/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which kernels are fit. UFFDIO_MOVE came with 6.8; in the 6.12 series its
 * faults that crash the kernel or move the wrong page were mended up to
 * 6.12.43. 6.8 to 6.11 and 6.13 to 6.15 ended without these fixes. 6.16 and
 * 6.17 have them but flush the TLB at every page moved; 6.18 does it once a
 * batch.
 */
#include <stdio.h>
#include <sys/utsname.h>

#include "agent/checks.h"

#define VERSION(a, b, c) ((a) * 1000000u + (b) * 1000u + (c))

enum check_result check_kernel_release(const char *release, char detail[CHECK_DETAIL])
{
	unsigned a = 0, b = 0, c = 0, version;
	enum check_result result = CHECK_FAIL;
	const char *why;

	/* vendors write what they like behind the third number */
	if (sscanf(release, "%3u.%3u.%3u", &a, &b, &c) < 2) {
		snprintf(detail, CHECK_DETAIL, "%.64s: not a version we can read", release);
		return CHECK_WARN;
	}
	version = VERSION(a, b, c);
	if (version < VERSION(6, 8, 0)) {
		why = "too old: UFFDIO_MOVE came with 6.8; 6.18 is recommended";
	} else if (version < VERSION(6, 12, 0)) {
		why = "its UFFDIO_MOVE can crash the kernel; use 6.12.43 or newer, better 6.18";
	} else if (version < VERSION(6, 12, 43)) {
		why = "its UFFDIO_MOVE can crash the kernel or move a wrong page, mended in 6.12.43";
	} else if (version >= VERSION(6, 13, 0) && version < VERSION(6, 16, 0)) {
		why = "this series ended without fixes of UFFDIO_MOVE; use 6.12.43 or 6.18";
	} else if (version < VERSION(6, 18, 0)) {
		result = CHECK_WARN;
		why = "works, but moving pages costs more than with 6.18";
	} else {
		result = CHECK_OK;
		why = "known good series or newer";
	}
	snprintf(detail, CHECK_DETAIL, "Linux %.64s: %s", release, why);
	return result;
}

enum check_result check_kernel(char detail[CHECK_DETAIL])
{
	struct utsname uts;

	if (uname(&uts) < 0) {
		snprintf(detail, CHECK_DETAIL, "uname failed");
		return CHECK_WARN;
	}
	return check_kernel_release(uts.release, detail);
}
