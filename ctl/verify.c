/* SPDX-License-Identifier: GPL-2.0-or-later */
/* verify: every stored page is read again, all is counted anew; exit 1 on damage. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "ctl/ctl.h"
#include "ctl/json.h"

static const struct {
	const char *name, *key, *text;
	bool bad;
} results[] = {
	{ "GoodPages", "good_pages", "pages are as they were stored", false },
	{ "DamagedPages", "damaged_pages", "are damaged", true },
	{ "UnreadPages", "unread_pages", "could not be read now", false },
	{ "WrongAccounts", "wrong_accounts", "accounts are wrong", true },
	{ "WrongReferences", "wrong_references", "have a wrong number of references", true },
	{ "NotFoundPages", "not_found_pages", "would not be found again by their content", true },
	{ "UnsettledPages", "unsettled_pages", "were in use all the time, their references not compared",
	  false },
};

static int read_results(sd_bus_message *m, uint64_t value[])
{
	int r = sd_bus_message_enter_container(m, 'a', "{sv}");

	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		const char *name = "";
		uint64_t v = 0;

		r = sd_bus_message_read(m, "s", &name);
		if (r >= 0)
			r = sd_bus_message_read(m, "v", "t", &v);
		for (size_t i = 0; i < ARRAY_SIZE(results); i++)
			if (strcmp(results[i].name, name) == 0)
				value[i] = v;
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	return r;
}

static void print(const struct ctl *ctl, const uint64_t value[])
{
	struct json json = { .pretty = ctl->pretty };

	if (ctl->json)
		json_open(&json, NULL, '{');
	for (size_t i = 0; i < ARRAY_SIZE(results); i++)
		if (ctl->json)
			json_number(&json, results[i].key, value[i]);
		else if (value[i] || i == 0)
			printf("%" PRIu64 " %s\n", value[i], results[i].text);
	if (ctl->json)
		json_close(&json, '}');
}

int verb_verify(struct ctl *ctl, int argc, char *argv[])
{
	uint64_t value[ARRAY_SIZE(results)] = { 0 };
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *m, *answer = NULL;
	int code = ctl_connect(ctl), r;

	if (code != CTL_OK)
		return code;
	m = ctl_call_new(ctl, MANAGER_PATH, MANAGER_INTERFACE, "Verify");
	if (!m)
		return CTL_FAILED;
	r = sd_bus_message_append(m, "a{sv}", 0);
	if (r >= 0) /* it takes as long as it takes */
		r = sd_bus_call(ctl->bus, m, UINT64_MAX, &error, &answer);
	if (r >= 0)
		r = read_results(answer, value);
	if (r < 0)
		code = ctl_error(sd_bus_error_is_set(&error) ? &error : NULL, r);
	else
		print(ctl, value);
	for (size_t i = 0; i < ARRAY_SIZE(results); i++)
		if (code == CTL_OK && results[i].bad && value[i])
			code = CTL_FAILED;
	sd_bus_message_unref(m);
	sd_bus_message_unref(answer);
	sd_bus_error_free(&error);
	return code;
}
