/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may act: root, the agent's own user, holders of CAP_SYS_ADMIN as far as
 * the bus vouches for it. At control.sock the kernel vouches for the uid. The
 * agent asks polkit for nothing (yet), so an ordinary user may only look.
 */
#include <errno.h>
#include <linux/capability.h>
#include <unistd.h>

#include "common/log.h"
#include "control/private.h"

static bool trusted_uid(uid_t uid)
{
	return uid == 0 || uid == geteuid();
}

static bool trusted_sender(sd_bus_message *m)
{
	sd_bus_creds *creds = NULL;
	uid_t uid;
	bool trusted;
	int r;

	/* Without SD_BUS_CREDS_AUGMENT: only what the bus knows from the
	   socket; /proc could be of another process by now. */
	r = sd_bus_query_sender_creds(m, SD_BUS_CREDS_EUID, &creds);
	if (r < 0)
		return false;
	trusted = sd_bus_creds_get_euid(creds, &uid) >= 0 && trusted_uid(uid);
	sd_bus_creds_unref(creds);
	return trusted || sd_bus_query_sender_privilege(m, CAP_SYS_ADMIN) > 0;
}

int access_check(struct control *control, sd_bus_message *m, sd_bus_error *error)
{
	const struct endpoint *e = endpoint_find(control, sd_bus_message_get_bus(m));

	if (e && (e->peer ? trusted_uid(e->uid) : trusted_sender(m)))
		return 0;
	log_debug("%s refused: the caller has no right to it", sd_bus_message_get_member(m));
	return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED,
				"Only root, the agent's own user and holders of CAP_SYS_ADMIN "
				"may do this");
}
