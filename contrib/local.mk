# SPDX-License-Identifier: GPL-2.0-or-later
# What a system needs to run the agent as a service.
systemdsystemunit_DATA = \
	contrib/systemd/uswap-agent.service \
	contrib/systemd/uswap-agent.socket
dist_udevrules_DATA = contrib/systemd/70-uswap.rules
dist_dbuspolicy_DATA = contrib/dbus/org.uswap1.conf
dist_dbusservice_DATA = contrib/dbus/org.uswap1.service
dist_dbusinterface_DATA = \
	contrib/dbus/org.uswap1.Manager.xml \
	contrib/dbus/org.uswap1.Process.xml
dist_bashcompletion_DATA = \
	contrib/completion/uswap-agent.bash \
	contrib/completion/uswapctl.bash
dist_zshcompletion_DATA = contrib/completion/_uswapctl
CLEANFILES += $(systemdsystemunit_DATA)
# not active: to be copied where it is wanted
dist_doc_DATA = contrib/systemd/rados.conf
EXTRA_DIST += \
	contrib/systemd/uswap-agent.service.in \
	contrib/systemd/uswap-agent.socket.in \
	contrib/systemd/sysusers.conf \
	contrib/systemd/tmpfiles.conf \
	contrib/uswap.conf

contrib/systemd/uswap-agent.service: contrib/systemd/uswap-agent.service.in Makefile
	$(SUBSTITUTE) $< >$@
contrib/systemd/uswap-agent.socket: contrib/systemd/uswap-agent.socket.in Makefile
	$(SUBSTITUTE) $< >$@

# An administrator's uswap.conf is never overwritten, and only an untouched one
# is removed.
install-data-local:
	$(MKDIR_P) "$(DESTDIR)$(sysusersdir)" "$(DESTDIR)$(tmpfilesdir)" \
		"$(DESTDIR)$(sysconfdir)/uswap/uswap.conf.d"
	$(INSTALL_DATA) $(srcdir)/contrib/systemd/sysusers.conf "$(DESTDIR)$(sysusersdir)/uswap.conf"
	$(INSTALL_DATA) $(srcdir)/contrib/systemd/tmpfiles.conf "$(DESTDIR)$(tmpfilesdir)/uswap.conf"
	test -e "$(DESTDIR)$(sysconfdir)/uswap/uswap.conf" || \
		$(INSTALL_DATA) $(srcdir)/contrib/uswap.conf "$(DESTDIR)$(sysconfdir)/uswap/uswap.conf"

uninstall-local:
	rm -f "$(DESTDIR)$(sysusersdir)/uswap.conf" "$(DESTDIR)$(tmpfilesdir)/uswap.conf"
	if cmp -s $(srcdir)/contrib/uswap.conf "$(DESTDIR)$(sysconfdir)/uswap/uswap.conf"; then \
		rm -f "$(DESTDIR)$(sysconfdir)/uswap/uswap.conf"; fi
	-rmdir "$(DESTDIR)$(sysconfdir)/uswap/uswap.conf.d" "$(DESTDIR)$(sysconfdir)/uswap" 2>/dev/null
