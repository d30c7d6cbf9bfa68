/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stack of stores that Store= names, and the key of what leaves memory. */
#include "engine/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/kept.h"
#include "common/layout.h"
#include "common/log.h"
#include "common/util.h"

/* Where no memory is asked for: what is on its way to slower stores is put
   together there. */
#define BUFFER "memory:64M"

#define KEY_FILE_MIN 16

static bool open_one(struct engine *e, const char *place, const char *word)
{
	const char *error = NULL;

	e->stores[e->nr_stores] = store_open(word, &error);
	if (!e->stores[e->nr_stores]) {
		log_error("%sStore=%s: %s", place, word, error ? error : strerror(errno));
		return false;
	}
	e->nr_stores++;
	return true;
}

/* The list in force: kept, and of an agent before us if there was one. */
static char *open_list(struct kept *kept)
{
	int r = kept_open(kept, "tiers", PAGE_BYTES, LAYOUT_TIERS);
	char *list = kept->own;

	static_assert(SETTINGS_STORE_MAX <= KEPT_OWN, "all of it");
	if (r < 0) {
		log_error("Store=: %s", strerror(-r));
		return NULL;
	}
	list[SETTINGS_STORE_MAX - 1] = '\0';
	return list;
}

/* Where pages are is written down by a store's place in the list: as long as an agent
   before us has some there, its list stays in force. */
static bool keep_list(struct engine *e)
{
	struct kept kept = KEPT_NONE;
	char *list = open_list(&kept);

	if (!list)
		return false;
	if (*list && strcmp(list, e->settings.store) != 0 && recover_owners(e)) {
		log_warning("Store=%s: programs are attached whose pages are in %s, which stays in force until the agent "
			    "is started while none is", e->settings.store, list);
		strcpy(e->settings.store, list);
		memset(e->settings.store_place, 0, sizeof(e->settings.store_place));
	} else {
		strcpy(list, e->settings.store);
	}
	kept_close(&kept);
	return true;
}

bool engine_starts_anew(const struct settings *settings)
{
	struct record_table records = { .kept = KEPT_NONE };
	struct kept kept = KEPT_NONE;
	uint32_t i = 0;
	bool anew = false;
	const char *list;

	if (kept_fd("tiers") < 0 || kept_fd("sessions") < 0)
		return false;
	list = open_list(&kept);
	if (list && record_table_open(&records) == 0)
		anew = strcmp(list, settings->store) != 0 && !record_next(&records, &i);
	record_table_close(&records);
	kept_close(&kept);
	return anew;
}

/* Whoever reads it can read what we store. */
static bool is_private(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && !(st.st_mode & (S_IRWXG | S_IRWXO));
}

/* The secret of KeyFile= into buf; its length, 0 without one, or -1 and what is wrong. */
static ssize_t read_key(const struct settings *settings, unsigned char buf[ENGINE_KEY_MAX], char *message)
{
	const char *path = settings->key_file, *error = "a key has at least 16 bytes";
	_cleanup_close_ int fd = -1;
	ssize_t n = 0;

	if (!*path)
		return 0;
	/* nor does it wait for whoever may write into a fifo */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		error = errno == ELOOP ? "is a symbolic link, not a file" : strerror(errno);
	else if (!is_private(fd))
		error = "must be a file that nobody but its owner may touch (chmod 600)";
	else if ((n = read(fd, buf, ENGINE_KEY_MAX)) >= KEY_FILE_MIN)
		return n;
	else if (n < 0)
		error = strerror(errno);
	snprintf(message, ENGINE_KEY_MESSAGE, "%sKeyFile=%s: %s", settings->key_file_place, path, error);
	return -1;
}

bool engine_check_key(const struct settings *settings, char *message)
{
	unsigned char secret[ENGINE_KEY_MAX];
	ssize_t len = read_key(settings, secret, message);

	explicit_bzero(secret, sizeof(secret));
	return len >= 0;
}

bool stores_open(struct engine *e)
{
	const char *list = e->settings.store;
	char word[SETTINGS_STORE_MAX], message[ENGINE_KEY_MESSAGE];

	static_assert(SETTINGS_STORES < ARRAY_SIZE(e->stores), "and a buffer in front");
	/* Once: what was found good before anything is touched is what stores_join has. */
	e->secret_len = read_key(&e->settings, e->secret, message);
	if (e->secret_len < 0) {
		log_error("%s", message);
		return false;
	}
	if (!keep_list(e))
		return false;
	if (strncmp(list, "memory:", strlen("memory:")) != 0 && !open_one(e, "", BUFFER))
		return false;
	for (unsigned i = 0; store_next_word(&list, word, sizeof(word)); i++)
		if (i == SETTINGS_STORES || !open_one(e, e->settings.store_place[i], word))
			return false;
	return true;
}

void stores_close(struct engine *e)
{
	while (e->nr_stores)
		store_close(e->stores[--e->nr_stores]);
}

struct blobstore *stores_join(struct engine *e, uint32_t max_blobs)
{
	struct blobstore *bs;

	if (e->secret_len)
		domain_registry_share(e->flow.domains, e->secret, (size_t)e->secret_len);
	bs = blobstore_new_tiers(e->stores, e->nr_stores, max_blobs, e->secret, (size_t)e->secret_len);
	explicit_bzero(e->secret, sizeof(e->secret));
	if (bs) {
		blobstore_set_move_down(bs, e->settings.move_down_ns);
		blobstore_set_recompress(bs, e->settings.recompress_ns);
		blobstore_set_clusters(bs, e->settings.clusters);
	}
	return bs;
}

uint64_t stores_capacity(const struct engine *e)
{
	struct store_stats stats;
	uint64_t sum = 0;

	for (unsigned i = 0; i < e->nr_stores; i++) {
		store_get_stats(e->stores[i], &stats);
		sum += stats.capacity_bytes;
	}
	return sum;
}
