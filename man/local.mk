# SPDX-License-Identifier: GPL-2.0-or-later
dist_man_MANS += \
	man/uswapctl.1 \
	man/libuswap.7 \
	man/uswap-agent.8 \
	man/uswap-rados.7 \
	man/uswap.conf.5
