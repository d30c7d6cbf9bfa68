# SPDX-License-Identifier: GPL-2.0-or-later
# libuswap.so, the LD_PRELOAD shim. Included by the top-level Makefile.am.
#
# It lives in other people's programs, so it is built with flags of its own and
# never with the user's CFLAGS, LDFLAGS or a sanitizer's, and without libtool.
# The exact command is
#
#   $(CC) $(SHIM_CFLAGS) -I$(top_srcdir) $(SHIM_LINK) -o libuswap.so *.c
#
#   -ffreestanding -nostdlib   no C library: raw system calls, own memcpy
#   -fno-stack-protector       its canary is thread-local, and the mover has
#                              no thread-local storage
#   -fno-plt -z now            nothing is bound lazily: no code of the loader
#                              runs inside the mover or the fork handler
#   -fvisibility=hidden        and shim.map: nothing is exported
#   -fno-sanitize=all -fno-lto whatever $(CC) itself may carry
#   -z nodelete                the mover's code must stay
#   -z defs                    undefined symbols are errors (two are weak)
# tests/unit/test_shim_symbols.sh checks the result.

SHIM_CFLAGS = -std=gnu11 -O2 -g -fPIC -ffreestanding -fno-stack-protector \
	-fvisibility=hidden -fno-plt -fno-lto -fno-exceptions \
	-fno-sanitize=all -Wall -Wextra -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes $(WARN_CFLAGS)
SHIM_LINK = -nostdlib -shared -Wl,-z,now -Wl,-z,relro -Wl,-z,noexecstack \
	-Wl,-z,nodelete -Wl,-z,defs -Wl,-soname,libuswap.so \
	-Wl,--version-script=$(top_srcdir)/preload/shim.map

SHIM_C = preload/again.c preload/attach.c preload/fork.c preload/mem.c preload/mover.c \
	preload/orders.c preload/packet.c preload/shim.c preload/spawn.c
SHIM_H = preload/shim.h preload/sys.h

shimdir = $(libdir)/uswap
shim_DATA = preload/libuswap.so

preload/libuswap.so: $(SHIM_C) $(SHIM_H) preload/shim.map \
		common/wire.h uapi/uswap_uapi.h
	@test -d preload || $(MKDIR_P) preload
	$(AM_V_CCLD)sources=; for f in $(SHIM_C); do \
		sources="$$sources $(top_srcdir)/$$f"; done; \
	$(CC) $(SHIM_CFLAGS) -I$(top_srcdir) $(SHIM_LINK) -o $@.tmp $$sources && \
	mv $@.tmp $@

EXTRA_DIST += $(SHIM_C) $(SHIM_H) preload/shim.map \
	common/wire.h uapi/uswap_uapi.h
CLEANFILES += preload/libuswap.so preload/libuswap.so.tmp
