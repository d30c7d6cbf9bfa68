# SPDX-License-Identifier: GPL-2.0-or-later
bin_PROGRAMS += ctl/uswapctl
ctl_uswapctl_SOURCES = \
	ctl/agent.c \
	ctl/bus.c \
	ctl/ctl.h \
	ctl/figures.c \
	ctl/figures.h \
	ctl/json.c \
	ctl/json.h \
	ctl/order.c \
	ctl/program.c \
	ctl/program.h \
	ctl/run.c \
	ctl/show.c \
	ctl/show.h \
	ctl/show_verbs.c \
	ctl/table.c \
	ctl/table.h \
	ctl/uswapctl.c \
	ctl/verify.c
ctl_uswapctl_LDADD = common/libcommon.a $(SYSTEMD_LIBS)
