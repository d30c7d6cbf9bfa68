/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/rados_library.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>

#include "backends/store.h"
#include "common/util.h"

#define LIBRARY "librados.so.2"

static const struct {
	const char *name;
	size_t offset;
} calls[] = {
#define RADOS_CALL(name) { #name, offsetof(struct rados_library, name) },
	RADOS_CALLS(RADOS_CALL)
#undef RADOS_CALL
};

static bool find_calls(struct rados_library *library, void *handle)
{
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		void *address = dlsym(handle, calls[i].name);

		if (!address)
			return false;
		*(void **)(void *)((char *)library + calls[i].offset) = address;
	}
	return true;
}

const struct rados_library *rados_library_load(const char **error)
{
	static struct rados_library library;
	static bool loaded;
	void *handle;

	if (loaded)
		return &library;
	handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (handle)
		loaded = find_calls(&library, handle);
	if (loaded)
		return &library;
	store_refuse(error, "store \"rados:\": %s (package librados2)", dlerror());
	if (handle)
		dlclose(handle);
	return NULL;
}
